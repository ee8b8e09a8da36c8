"""`tgmembership provision`: in a pipe and on a terminal, run again, interrupted and rate limited."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import in_process
import pytest
from click.testing import Result
from command_line import COMMAND, ENVIRONMENT, Terminal
from forked import Forked

from tgmembership_async.cli import default_ledger
from tgmembership_async.cli.provision import command as provision
from tgmembership_async.cli.provision.summary import exit_code, sentences
from tgmembership_async.errors import StorageError
from tgmembership_async.grants import Grant, Members, SqliteLedger
from tgmembership_async.grants.provisioning import StopReason, Summary
from tgmembership_async.testing import FakeService, Fault, serve
from tgmembership_async.testing.fake.server import FakeServer

ENDINGS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture
def service() -> FakeService:
    return FakeService(silent=[1003])


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user data folder of this test."""
    folder = tmp_path / "data"
    for name in ("XDG_DATA_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        monkeypatch.setenv(name, str(folder))
        monkeypatch.setitem(ENVIRONMENT, name, str(folder))
    return folder


@pytest.fixture
def server(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with serve(service) as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.delenv("TGMEMBERSHIP_LEDGER", raising=False)
        yield running


@pytest.fixture
def members(tmp_path: Path) -> Path:
    return members_file(tmp_path, 3)


def members_file(folder: Path, count: int) -> Path:
    path = folder / "members.csv"
    rows = (f"r{number},{number + 1000},chat {number}\n" for number in range(count))
    path.write_text("ref,member_id,note\n" + "".join(rows))
    return path


run = partial(in_process.run, "provision")


async def rows_of(file: Path) -> list[Grant]:
    async with SqliteLedger(file) as ledger:
        return [grant async for grant in ledger.grants()]


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("server")
def test_each_member_is_a_line_and_running_it_again_sends_nothing(
    members: Path, service: FakeService, data: Path
) -> None:
    first = run(members, "--plan-id", 1)
    assert first.exit_code == 0
    told = {line["ref"]: line for line in lines(first)}
    assert told.keys() == {"r0", "r1", "r2"}
    assert {name: told["r1"][name] for name in ("member_id", "plan_id", "status", "attempts", "error", "note")} == {
        "member_id": 1001,
        "plan_id": 1,
        "status": "granted",
        "attempts": 1,
        "error": None,
        "note": "chat 1",
    }
    assert "3 of 3 members" in first.stderr
    assert "3 granted, 0 granted before, 0 refused, 0 unknown, 0 still planned." in first.stderr
    again = run(members, "--plan-id", 1)
    assert again.exit_code == 0
    assert {line["ref"] for line in lines(again)} == told.keys()
    assert "0 granted, 3 granted before" in again.stderr
    assert len(service.audit) == service.count_requests() == 3
    [ledger] = data.rglob("*.db")
    assert ledger.name.startswith(f"grants-{service.bot_id}-http_127.0.0.1_")
    assert f"Ledger: {ledger}\n" in first.stderr
    assert [file.name for file in members.parent.glob("members*")] == ["members.csv"]


@pytest.mark.usefixtures("server")
def test_links_are_shown_only_when_asked_for(members: Path, service: FakeService) -> None:
    hidden = run(members, "--plan-id", 1)
    tokens = [token.value for token in service.tokens]
    assert not any(token in hidden.output for token in tokens)
    assert "Show the links: tgmembership grants undelivered --show-links --ledger" in hidden.stderr
    shown = run(members, "--plan-id", 1, "--show-links")
    assert {line["link"] for line in lines(shown)} == {token.link for token in service.tokens}
    assert "Show the links:" not in shown.stderr


@pytest.mark.usefixtures("server")
def test_a_file_of_another_name_grants_nobody_again(members: Path, service: FakeService) -> None:
    assert run(members, "--plan-id", 1).exit_code == 0
    renamed = members.parent / "elsewhere" / "members (1).csv"
    renamed.parent.mkdir()
    shutil.copy(members, renamed)
    again = run(renamed, "--plan-id", 1)
    assert (again.exit_code, len(service.audit)) == (0, 3)
    assert "0 granted, 3 granted before" in again.stderr


@pytest.mark.usefixtures("server")
def test_an_old_ledger_beside_the_file_is_named_and_not_ignored(
    members: Path, service: FakeService, data: Path
) -> None:
    old = members.with_name("members.csv.grants.db")
    assert run(members, "--plan-id", 1, "--ledger", old).exit_code == 0
    renamed = members.with_name("members (1).csv")
    shutil.copy(members, renamed)
    for file in (members, renamed):
        done = run(file, "--plan-id", 1)
        assert done.exit_code == 2
        assert f"{old}: a ledger of an earlier version, beside {file.name}" in done.stderr
        assert f"--ledger {old}" in done.stderr
        assert f"ledger copy {old} {data}" in done.stderr
        assert run(file, "--plan-id", 1, "--ledger", old).exit_code == 0
    assert len(service.audit) == 3
    assert not list(data.rglob("*.db"))


@pytest.mark.usefixtures("server")
def test_a_rehearsal_and_then_the_live_bot(
    members: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "grants.db"
    assert run(members, "--plan-id", 1, "--ledger", ledger).exit_code == 0
    assert run(members, "--plan-id", 1).exit_code == 0
    live = FakeService(bot_id=4242)
    with serve(live) as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        done = run(members, "--plan-id", 1, "--ledger", ledger)
        assert done.exit_code == 2
        assert "belongs to bot 8047883872 at http://127.0.0.1, and this is bot 4242 at http://127.0.0.1" in done.stderr
        assert live.count_requests() == 0
        assert run(members, "--plan-id", 1).exit_code == 0
    assert len(live.audit) == 3
    assert len(list(data.rglob("*.db"))) == 2, "each bot has a default ledger of its own"


def test_a_folder_that_cannot_be_made_is_named(
    members: Path, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(default_ledger, "user_data_path", lambda *_, **__: tmp_path / "file" / "tgmembership")
    done = run(members, "--plan-id", 1)
    assert done.exit_code == 2
    assert "cannot be made: Not a directory; name a ledger with --ledger FILE" in done.stderr
    assert server.service.count_requests() == 0


@pytest.mark.usefixtures("server")
def test_all_bad_rows_are_reported_before_anything_is_sent(tmp_path: Path, service: FakeService) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id,plan_id\na,1,1\nb,x,1\nc,3,\n")
    done = run(path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Read members.csv: CSV, separated by commas, UTF-8; ref; member_id; plan_id.",
        f"{path}:3: member_id is not a positive number of up to 64 bits: 'x'",
        f"{path}:4: no plan: set one in the column plan_id, or for all rows with --plan-id",
        "Nothing was sent. Invalid rows: 2. Valid rows: 1.",
    ]
    assert service.count_requests() == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("server")
def test_conflicts_in_one_file_are_bad_rows(tmp_path: Path, service: FakeService) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id\na,1\na,1\nb,2\na,3\n")
    done = run(path, "--plan-id", 1)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Read members.csv: CSV, separated by commas, UTF-8; ref; member_id; plan_id is 1.",
        f"{path}:5: ref 'a' stands for another plan or member on line 2",
        "Nothing was sent. Invalid rows: 1. Valid rows: 3.",
    ]
    assert service.count_requests() == 0


@pytest.mark.usefixtures("server")
def test_a_row_of_its_own_plan_and_a_ledger_by_its_name(tmp_path: Path, service: FakeService) -> None:
    path, ledger = tmp_path / "members.jsonl", tmp_path / "grants.db"
    path.write_text('{"ref": "a", "member_id": 1, "plan_id": 2}\n{"ref": "b", "member_id": 2}\n')
    assert run(path, "--plan-id", 1, "--ledger", ledger, "--concurrency", 1).exit_code == 0
    assert [grant.plan_id for grant in service.audit] == [2, 1]
    assert ledger.exists()


@pytest.mark.usefixtures("server")
def test_refused_grants_and_conflicts_exit_with_3(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("ref,member_id\nr1,1001\n")
    assert run(path, "--plan-id", 1).exit_code == 0
    path.write_text("ref,member_id\nr2,1002\nr3,1003\nr2,1002\nr1,1004\n")
    done = run(path, "--plan-id", 1, "--concurrency", 1, "--show-links")
    assert done.exit_code == 3
    assert [line["status"] for line in lines(done)] == ["granted", "refused", "granted", "conflict"]
    conflict = lines(done)[-1]
    assert (conflict["member_id"], conflict["link"], conflict["token"]) == (1004, None, None)
    assert "1 granted, 0 granted before, 1 refused, 0 unknown" in done.stderr
    assert "1 rows were already processed by this run or by another worker." in done.stderr
    assert "1 rows were not sent, because their ref belongs to another plan or member" in done.stderr
    assert "grants list --status refused" in done.stderr


@pytest.mark.usefixtures("server")
def test_unknown_grants_exit_with_4_and_are_held(members: Path, service: FakeService) -> None:
    service.inject(Fault("error", when="after", count=1))
    for _ in range(2):
        done = run(members, "--plan-id", 1)
        assert done.exit_code == 4
        assert sorted(line["status"] for line in lines(done)) == ["granted", "granted", "unknown"]
        assert "Unknown outcomes: 1. These grants are not sent again until you decide" in done.stderr
    assert service.granted_twice() == {}
    assert len(service.audit) == 3


@pytest.mark.usefixtures("server")
def test_rejected_credentials_exit_with_5_and_leave_the_rest_planned(
    members: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "nobody")
    done = run(members, "--plan-id", 1, "--concurrency", 1)
    assert done.exit_code == 5
    assert [line["status"] for line in lines(done)] == ["planned"]
    assert "Ended early: the service refused the account with 401." in done.stderr
    assert "Run the same command again for the remaining members." in done.stderr
    assert service.audit == []


def test_missing_credentials_are_named(members: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGMEMBERSHIP_BOT_ID", raising=False)
    done = run(members, "--plan-id", 1)
    assert (done.exit_code, done.stdout) == (2, "")
    told = "Error: set TGMEMBERSHIP_BOT_ID to the id of your bot"
    assert done.stderr.splitlines()[-1] == f"{told}, and TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE to its key"
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "key")
    assert run(members, "--plan-id", 1).stderr.splitlines()[-1] == told


@pytest.mark.usefixtures("server")
def test_a_service_that_rate_limits_exits_with_1(members: Path, service: FakeService) -> None:
    service.inject(Fault("throttled", retry_after=0, method="addMember"))
    done = run(members, "--plan-id", 1, "--attempts", 2, "--concurrency", 1)
    assert done.exit_code == 1
    assert {line["status"] for line in lines(done)} == {"planned"}
    service.clear_faults()
    assert run(members, "--plan-id", 1).exit_code == 0


@pytest.mark.usefixtures("server")
def test_a_file_that_is_not_a_ledger_is_left_unchanged(members: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.db"
    other.write_bytes(b"my notes" * 100)
    done = run(members, "--plan-id", 1, "--ledger", other)
    assert done.exit_code in (1, 2)
    assert done.stderr.splitlines()[1].startswith("Error: ")
    assert "Traceback" not in done.output
    assert other.read_bytes() == b"my notes" * 100


@pytest.mark.usefixtures("server")
def test_a_ledger_that_fails_during_the_run_ends_with_the_summary(
    members: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> object:
        message = "no space"
        raise StorageError(message)

    monkeypatch.setattr(provision, "fields_of", fail)
    done = run(members, "--plan-id", 1)
    assert done.exit_code == 1
    assert "of 3 members in" in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: no space"


@pytest.mark.usefixtures("server")
def test_a_file_that_changes_meanwhile_ends_the_run(members: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = provision._check

    def check_and_change(file: Path, members: Members) -> int:
        total = check(file, members)
        file.write_text("ref,member_id\nr0,1000\nr1,x\n")
        return total

    monkeypatch.setattr(provision, "_check", check_and_change)
    done = run(members, "--plan-id", 1)
    assert done.exit_code == 2
    assert "changed while it was read; line 3" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_a_pipe_cannot_be_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run(pipe, "--plan-id", 1)
    assert done.exit_code == 2
    assert "is read twice" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", ENDINGS)
def test_an_interrupt_finishes_what_is_in_flight_and_loses_nothing(
    tmp_path: Path, service: FakeService, server: FakeServer, number: signal.Signals
) -> None:
    path, result = members_file(tmp_path, 150), tmp_path / "result.csv"
    service.inject(Fault("latency", when="after", seconds=0.05))
    with Forked(
        [*COMMAND, "provision", str(path), "--plan-id", "1", "--concurrency", "4", "--result", str(result)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **server.env(), "NO_PROXY": "*"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = [process.stdout.readline()]
        process.send_signal(number)
        if number == ENDINGS[-1]:  # a terminal that is closed sends it twice: the shell, and the kernel
            told.append(process.stdout.readline())
            process.send_signal(number)
        told += process.stdout.readlines()
        err = process.stderr.read()
    assert process.returncode == 130
    assert "Stopping: waiting for the grants in flight" in err
    assert "Run the same command again for the remaining members." in err
    assert "Traceback" not in err
    granted = {line["member_id"] for line in map(json.loads, told) if line["status"] == "granted"}
    assert granted == {grant.member_id for grant in service.audit}
    with result.open(encoding="utf-8-sig", newline="") as file:
        known = {int(row["member_id"]) for row in csv.DictReader(file) if row["grant_status"] == "granted"}
    assert known == granted
    assert 1 <= len(granted) < 100
    service.clear_faults()
    assert run(path, "--plan-id", 1).exit_code == 3  # member 1003 has not talked to the bot
    assert service.granted_twice() == {}
    assert len(service.audit) == 149


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_hangup_ends_every_command_as_an_interrupt_does(
    tmp_path: Path, service: FakeService, server: FakeServer
) -> None:
    service.inject(Fault("latency", when="after", method="addMember", seconds=1))
    ledger = tmp_path / "grants.db"
    with Forked(
        [*COMMAND, "grant", "r", "--plan-id", "1", "--member-id", "1", "--ledger", str(ledger)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **server.env(), "NO_PROXY": "*"},
    ) as process:
        end = time.monotonic() + 60
        while not service.audit and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted.\n")
    [row] = anyio.run(rows_of, ledger)
    assert row.status == "granted"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar_and_a_pipe_does_not(tmp_path: Path, server: FakeServer) -> None:
    path = members_file(tmp_path, 60)
    with (
        Terminal() as terminal,
        Forked(
            [*COMMAND, "provision", str(path), "--plan-id", "1"],
            stdout=subprocess.PIPE,
            stderr=terminal.theirs,
            text=True,
            env={**ENVIRONMENT, **server.env(), "NO_PROXY": "*"},
        ) as process,
    ):
        terminal.read_until("60/60.*59 granted.*1 refused.*0 unknown")
        out, _ = process.communicate(timeout=60)
        terminal.read_until("60 of 60 members in")
    assert len(out.splitlines()) == 60
    assert "━" not in out


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("arguments", [(), ("--show-links",), ("--format", "jsonl")], ids=["auto", "links", "jsonl"])
def test_a_terminal_shows_what_went_wrong_by_reason_and_rows_on_request(
    arguments: tuple[str, ...], tmp_path: Path, server: FakeServer
) -> None:
    path = members_file(tmp_path, 20)
    environment = {**ENVIRONMENT, **server.env(), "NO_PROXY": "*", "NO_COLOR": "1"}
    command = [*COMMAND, "provision", str(path), "--plan-id", "1", *arguments]
    with (
        Terminal() as terminal,
        Forked(command, stdout=terminal.theirs, stderr=terminal.theirs, env=environment) as process,
    ):
        terminal.read_until("Show the reasons:")
        assert process.wait(60) == 3
    assert re.search(r"1 +refused +[^\r\n]+ r3 ", terminal.shown), terminal.shown
    assert terminal.shown.count('"status": "granted"') == (19 if arguments else 0)


def test_an_unknown_outcome_is_sent_again_as_often_as_allowed(
    members: Path, service: FakeService, server: FakeServer
) -> None:
    del server
    service.inject(Fault("error", when="after", method="addMember", count=1))
    done = run(members, "--plan-id", 1, "--concurrency", 1, "--regrant", 1)
    assert "3 granted, 0 granted before, 0 refused, 0 unknown" in done.stderr
    assert service.count_requests("addMember") == 4


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (Summary(granted=2, already=1, duplicates=1), 0),
        (Summary(granted=2, planned=1), 1),
        (Summary(granted=2, stopped=StopReason.BUDGET), 1),
        (Summary(planned=1, refused=1), 3),
        (Summary(conflicts=1), 3),
        (Summary(refused=1, unknown=1, stopped=StopReason.UNKNOWN), 4),
        (Summary(unknown=1, stopped=StopReason.CREDENTIALS), 5),
    ],
)
def test_the_exit_code_is_the_highest_that_applies(summary: Summary, code: int) -> None:
    assert exit_code(summary) == code


def test_the_summary_quotes_what_a_shell_would_split() -> None:
    told = "\n".join(sentences(Summary(granted=1), 1, 0.5, Path("my grants.db"), links=False))
    assert "--ledger 'my grants.db'" in told


@pytest.mark.usefixtures("server")
def test_an_interrupt_before_anything_began_exits_with_130(members: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(provision, "opened", interrupt)
    done = run(members, "--plan-id", 1)
    assert done.exit_code == 130
    assert "0 of 3 members in" in done.stderr


@pytest.mark.usefixtures("server")
def test_a_ledger_in_use_names_its_owner(members: Path, tmp_path: Path) -> None:
    path = tmp_path / "grants.db"

    async def own() -> None:
        async with SqliteLedger(path):
            done = await anyio.to_thread.run_sync(run, members, "--plan-id", 1, "--ledger", path)
            assert (done.exit_code, done.stdout) == (2, "")
            assert done.stderr.splitlines()[1].startswith(f"Error: {path} is in use by this process")
            assert done.stderr.count("\n") == 2

    anyio.run(own)
