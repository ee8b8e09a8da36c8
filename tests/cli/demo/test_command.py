"""`tgmembership demo`: the main job, on pipes and on a terminal, killed, to its end and interrupted."""

import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_line import Terminal, started, tgmembership
from forked import Forked

from tgmembership_async.cli.demo import command as demo
from tgmembership_async.cli.demo.audit import Belief


def members_file(folder: Path, count: int, text: str = "ref,member_id,plan_id\n") -> str:
    path = folder / "members.csv"
    path.write_text(text + "".join(f"r{number},{number + 1000},1\n" for number in range(count)))
    return str(path)


def table(shown: str) -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^ *(granted|refused|unknown|granted twice|lost)  +([\d,]*) +(\d.*?) *$", shown, re.MULTILINE)
    return {name: (said, audited) for name, said, audited in rows}


def run_demo(*arguments: str) -> Result:
    """Run it in this process; its workers are processes of their own, as ever, but forked ones."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", Forked)
        return CliRunner().invoke(demo.command, arguments)


def test_a_thousand_members_are_granted_and_the_books_agree() -> None:
    done = run_demo()

    assert done.exit_code == 0
    assert len(re.findall(r"^Killed the worker with \d+ of 1,000 done; another", done.stderr, re.MULTILINE)) == 4
    assert "1,000 members to grant; each kind of fault strikes 3% of the requests.\n" in done.stdout
    assert "requests were struck, and the worker was killed 4 times:\n" in done.stdout
    assert "The ledger was right about every one of them.\n" in done.stdout
    books = table(done.stdout)
    granted, refused = int(books["granted"][0]), int(books["refused"][0])
    unknown, really, not_granted = map(int, re.findall(r"\d+", " ".join(books["unknown"])))
    assert granted + refused + unknown == 1000
    assert granted > 600
    assert refused > 0
    assert unknown == really + not_granted
    assert really > 50
    assert books["granted"][1] == f"{granted} granted"
    assert books["refused"][1] == "0 granted"
    assert (books["granted twice"][1], books["lost"][1]) == ("0", "0")
    faults = re.findall(r"\d x (closed|cut|damaged|error 500|html 502|latency|reset) (before|after)", done.stdout)
    assert len(set(faults)) == 14
    assert len(re.findall(r"\d x throttled 429\b", done.stdout)) == 2


def test_bad_rows_are_reported_before_anything_is_sent(tmp_path: Path) -> None:
    path = members_file(tmp_path, 2, "ref,member_id,plan_id\nx,y,1\nz,,1\n")
    done = tgmembership("demo", "--members", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{path}:2: member_id is not a positive number of up to 64 bits: 'y'",
        f"{path}:3: member_id is not a positive number of up to 64 bits: ''",
        "2 bad rows, 2 good ones: nothing was sent.",
    ]


def test_a_file_without_members_is_wrong_use(tmp_path: Path) -> None:
    done = tgmembership("demo", "--members", members_file(tmp_path, 0))
    assert (done.returncode, done.stderr) == (2, "0 bad rows, 0 good ones: nothing was sent.\n")


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    done = tgmembership("demo", "--members", str(tmp_path / "none.csv"))
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_plans_of_the_file_exist_and_a_missing_one_is_the_first(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id,plan_id\na,1,\nb,2,77\n")
    shown = run_demo("--members", str(path), "--concurrency", "1", "--kills", "0")
    assert shown.exit_code == 0
    assert "2 members in" in shown.stdout


def test_a_member_may_be_in_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id\n" + "".join(f"r{number},42\n" for number in range(40)))
    assert run_demo("--members", str(path), "--kills", "1").exit_code == 0


def test_the_same_seed_gives_the_same_faults_to_the_same_requests(tmp_path: Path) -> None:
    arguments = ["--members", members_file(tmp_path, 30), "--concurrency", "1", "--seed", "5", "--kills", "0"]
    first, second = (table(run_demo(*arguments).stdout) for _ in range(2))
    assert first == second


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    arguments = ["demo", "--kills", "1", "--members", members_file(tmp_path, 60)]
    with Terminal() as terminal, started(*arguments, stderr=terminal.theirs) as process:
        terminal.read_until("60/60")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.search(r"\d+ granted.*\d+ refused.*\d+ unknown.*1 kills", terminal.shown)
    assert "60 members in" in out


def test_ctrl_c_ends_with_the_books_so_far() -> None:
    with Terminal() as terminal, started("demo", stderr=terminal.theirs) as process:
        terminal.read_until(r"[1-4]\d\d/1000")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in terminal.shown + out
    [others] = re.findall(r"Ctrl-C came before the other (\d+)\.", out)
    assert 0 < int(others) < 900
    assert "The ledger was right about every one of them." in out


def test_its_ledger_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    members = Path(members_file(tmp_path, 3))
    assert run_demo("--members", str(members), "--kills", "0").exit_code == 0
    assert list(tmp_path.iterdir()) == [members]


def test_books_that_do_not_agree_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "belief_of", lambda _: Belief.GRANTED)
    shown = run_demo("--members", members_file(tmp_path, 60), "--kills", "0")
    assert shown.exit_code == 1
    assert "The books do not agree." in shown.stdout


def test_the_sample_comes_with_the_package() -> None:
    assert len(demo._read(None)) == 1000
