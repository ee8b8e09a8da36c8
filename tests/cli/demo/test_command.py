"""`tgmembership demo`: in a pipe and on a terminal, with kills, to the end and interrupted."""

import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_line import Terminal, started, tgmembership
from forked import Forked

from tgmembership_async.cli.demo import command as demo
from tgmembership_async.cli.demo.audit import Recorded
from tgmembership_async.cli.demo.resolution import Resolution


def members_file(folder: Path, count: int, text: str = "ref,member_id,plan_id\n") -> str:
    path = folder / "members.csv"
    path.write_text(text + "".join(f"r{number},{number + 1000},1\n" for number in range(count)))
    return str(path)


def table(shown: str) -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^ *(granted|refused|unknown)  +([\d,]*) +(\d.*?) *$", shown, re.MULTILINE)
    return {name: (said, audited) for name, said, audited in rows}


def faults_of(shown: str) -> tuple[int, int, int]:
    """Return the number of faults, of the requests that they affected, and of all requests."""
    [numbers] = re.findall(r"^([\d,]+) faults affected ([\d,]+) of ([\d,]+) requests\.", shown, re.MULTILINE)
    counted, affected, requests = (int(number.replace(",", "")) for number in numbers)
    return counted, affected, requests


def run_demo(*arguments: str) -> Result:
    """Run the demo in this process; its child processes are forked, which is faster."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "Popen", Forked)
        return CliRunner().invoke(demo.command, arguments)


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.soak)])
def test_members_are_granted_and_the_ledger_matches_the_audit_log(count: int, tmp_path: Path) -> None:
    done = run_demo() if count == 1000 else run_demo("--members", members_file(tmp_path, count), "--seed", "5")

    assert done.exit_code == 0
    killed = rf"^Killed `provision` after \d+ of {count:,} members; starting it again"
    assert len(re.findall(killed, done.stderr, re.MULTILINE)) == 4
    assert f"{count:,} members to grant; each kind of fault affects 3% of the requests.\n" in done.stdout
    counted, affected, requests = faults_of(done.stdout)
    assert counted >= affected > count // 5
    assert requests > count
    assert "`provision` was killed 4 times." in done.stdout
    assert "The ledger matches the service's audit log for every member.\n" in done.stdout
    results = table(done.stdout)
    granted, refused = int(results["granted"][0]), int(results["refused"][0])
    unknown, really, not_granted = map(int, re.findall(r"\d+", " ".join(results["unknown"])))
    assert granted + refused + unknown == count
    assert granted > count // 2
    assert refused > 0
    assert unknown == really + not_granted
    assert really > count // 20
    assert results["granted"][1] == f"{granted} granted"
    assert results["refused"][1] == "0 granted"
    assert "\nGranted twice: 0 (" in done.stdout
    assert "\nLost: 0 (" in done.stdout
    assert f"Decided as granted: {really}. Sent again: {not_granted}. The rule: " in done.stdout
    lost = count // 100
    assert (
        f"Inside: {count - lost}. Refused: {lost}.\n  {lost} x this user has not talked to the bot, or has blocked it\n"
        in done.stdout
    )
    table_of_faults = done.stdout.partition(" requests.")[2].partition("audit log")[0]
    assert sum(map(int, re.findall(r"(\d+) x ", table_of_faults))) == counted
    faults = re.findall(r"\d x (closed|cut|damaged|error 500|html 502|latency|reset) (before|after)", done.stdout)
    assert len(set(faults)) == 14
    assert len(re.findall(r"\d x throttled 429\b", done.stdout)) == 2


def test_bad_rows_are_reported_before_anything_is_sent(tmp_path: Path) -> None:
    path = members_file(tmp_path, 2, "ref,member_id,plan_id\nx,y,1\nz,,1\n")
    done = tgmembership("demo", "--members", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{path}:2: member_id is not a positive number of up to 64 bits: 'y'",
        f"{path}:3: member_id is empty",
        "2 invalid rows, 2 valid: nothing was sent.",
    ]


def test_a_file_without_members_is_wrong_use(tmp_path: Path) -> None:
    done = tgmembership("demo", "--members", members_file(tmp_path, 0))
    assert (done.returncode, done.stderr) == (2, "0 invalid rows, 0 valid: nothing was sent.\n")


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


def test_one_member_is_in_the_singular(tmp_path: Path) -> None:
    shown = run_demo("--members", members_file(tmp_path, 1), "--kills", "1")
    assert shown.exit_code == 0
    assert "1 member to grant;" in shown.stdout
    assert "1 member in " in shown.stdout
    assert "of 1 member; starting it again" in shown.stderr


def test_each_of_a_few_members_has_access_at_the_end(tmp_path: Path) -> None:
    began = time.monotonic()
    shown = run_demo("--members", members_file(tmp_path, 3))
    assert shown.exit_code == 0
    assert "`provision` was killed 1 time.\n" in shown.stdout
    assert "Inside: 3. Refused: 0." in shown.stdout
    assert time.monotonic() - began < 20, "no request waits for a kill that does not come"


def test_a_member_without_access_at_the_end_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve_all(*_: object) -> Resolution:
        return Resolution(settled=0, decided=0, sent_again=0, inside=2, refused=Counter(), left=1)

    monkeypatch.setattr(demo, "resolve_all", resolve_all)
    shown = run_demo("--members", members_file(tmp_path, 3), "--kills", "0")
    assert shown.exit_code == 1
    assert "Neither inside nor refused: 1." in shown.stdout


def test_a_member_may_be_in_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id\n" + "".join(f"r{number},42\n" for number in range(40)))
    assert run_demo("--members", str(path), "--kills", "1").exit_code == 0


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    arguments = ["--members", members_file(tmp_path, 60), "--seed", "5", "--kills", "2"]
    first, second = (run_demo(*arguments) for _ in range(2))
    kills = [re.findall("^Killed .*$", done.stderr, re.MULTILINE) for done in (first, second)]
    assert kills[0] == kills[1]
    assert len(kills[0]) == 2
    texts = [re.sub(r"127\.0\.0\.1:\d+|in [\d.]+ s", "-", done.stdout) for done in (first, second)]
    assert texts[0] == texts[1]
    assert faults_of(first.stdout)[0] > 10


def test_a_terminal_shows_the_progress(tmp_path: Path) -> None:
    arguments = ["demo", "--kills", "1", "--members", members_file(tmp_path, 60)]
    with Terminal() as terminal, started(*arguments, stderr=terminal.theirs) as process:
        terminal.read_until("60/60")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.search(r"\d+ granted.*\d+ refused.*\d+ unknown.*1 kills", terminal.shown)
    assert "60 members in" in out


def test_ctrl_c_ends_with_the_comparison_so_far() -> None:
    with Terminal() as terminal, started("demo", stderr=terminal.theirs) as process:
        terminal.read_until(r"[1-4]\d\d/1000")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in terminal.shown + out
    [others] = re.findall(r"Interrupted before the other (\d+)\.", out)
    assert 0 < int(others) < 900
    assert "The ledger matches the service's audit log for every member." in out


def test_the_ledger_is_removed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    members = Path(members_file(tmp_path, 3))
    assert run_demo("--members", str(members), "--kills", "0").exit_code == 0
    assert list(tmp_path.iterdir()) == [members]


def test_a_ledger_that_does_not_match_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "recorded_of", lambda _: Recorded.REFUSED)
    shown = run_demo("--members", members_file(tmp_path, 60), "--kills", "0")
    assert shown.exit_code == 1
    assert "The ledger does not match the service's audit log." in shown.stdout


def test_the_sample_comes_with_the_package() -> None:
    assert len(demo._read(None)) == 1000
