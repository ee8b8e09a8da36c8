"""`provision` on files that people have: `--dry-run`, `--result`, stdin, and the options of reading."""

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import in_process
import openpyxl
import pytest
from click.testing import CliRunner, Result

from tgmembership_async.cli.root import command
from tgmembership_async.grants import SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

FILE = "User ID;Order no.;Name;Amount\n1001;a;=cmd|'x'!A0;-5,00\n1002;b;Ada\x07;9,99\n1003;c;;\n"
OPTIONS = ("--plan-id", 1, "--column", "ref=Order no.")
NAMES = ["User ID", "Order no.", "Name", "Amount", "grant_status", "grant_reason"]


@pytest.fixture
def service() -> FakeService:
    return FakeService(silent=[1003])


@pytest.fixture(autouse=True)
def server(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serve(service) as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        for name in ("XDG_DATA_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
            monkeypatch.setenv(name, str(tmp_path / "data"))
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.delenv("TGMEMBERSHIP_LEDGER", raising=False)
        yield


@pytest.fixture
def members(tmp_path: Path) -> Path:
    path = tmp_path / "members.csv"
    path.write_text(FILE)
    return path


run = partial(in_process.run, "provision")


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def sheet(path: Path) -> list[tuple[Any, ...]]:
    return list(openpyxl.load_workbook(path).worksheets[0].iter_rows(values_only=True))


def test_one_line_tells_how_the_file_was_read(members: Path) -> None:
    done = run(members, *OPTIONS)
    assert done.stderr.splitlines()[0] == (
        "Read members.csv: CSV, separated by semicolons, UTF-8; ref from 'Order no.'; member_id from 'User ID'; "
        "ignored: 'Name', 'Amount'; plan_id is 1."
    )
    assert [line["status"] for line in lines(done)].count("granted") == 2


def test_a_dry_run_sends_nothing_and_creates_nothing(members: Path, tmp_path: Path, service: FakeService) -> None:
    for ledger in ((), ("--ledger", tmp_path / "grants.db")):
        done = run(members, *OPTIONS, "--dry-run", *ledger)
        assert done.exit_code == 0
        assert [(line["line"], line["ref"], line["status"], line["would"]) for line in lines(done)] == [
            (2, "a", None, "send"),
            (3, "b", None, "send"),
            (4, "c", None, "send"),
        ]
        assert done.stderr.splitlines()[-1] == "Nothing was sent. Of 3 members, 3 would be sent."
    assert service.count_requests() == 0
    assert list(tmp_path.iterdir()) == [members]


def test_a_dry_run_tells_what_the_ledger_has(members: Path, tmp_path: Path, service: FakeService) -> None:
    service.inject(Fault("error", when="after", count=1))
    ledger = tmp_path / "grants.db"
    assert run(members, *OPTIONS, "--ledger", ledger, "--concurrency", 1).exit_code == 4
    sent = service.count_requests()
    members.write_text(f"{FILE}1004;d;;\n1004;d;;\n1005;b;;\n".replace("1002;b;Ada\x07;9,99\n", ""))
    before = ledger.read_bytes()
    done = run(members, *OPTIONS, "--ledger", ledger, "--dry-run")
    assert [(line["ref"], line["status"], line["would"]) for line in lines(done)] == [
        ("a", "unknown", "stay unknown"),
        ("c", "refused", "stay refused"),
        ("d", None, "send"),
        ("d", None, "repeat"),
        ("b", "granted", "conflict"),
    ]
    assert "has not talked to the bot" in lines(done)[1]["reason"]
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == (
        "Nothing was sent. Of 5 members, 1 would be sent, 1 stay refused, 1 stay unknown until you decide, 1 would not "
        "be sent, because their ref belongs to another plan or member, 1 repeat an earlier row."
    )
    assert service.count_requests() == sent
    assert ledger.read_bytes() == before


def test_what_was_paid_in_the_gap_of_a_restored_ledger_is_held_and_the_rest_warned_of(
    members: Path, tmp_path: Path, service: FakeService
) -> None:
    ledger, backup = tmp_path / "grants.db", tmp_path / "backup.db"
    members.write_text("ref,member_id\nbefore,1\n")
    assert run(members, "--plan-id", 1, "--ledger", ledger).exit_code == 0
    in_process.run("ledger", "backup", backup, "--ledger", ledger)
    members.write_text("ref,member_id\nin the gap,2\n")
    assert run(members, "--plan-id", 1, "--ledger", ledger).exit_code == 0
    backup.replace(ledger)
    accepted = in_process.run("ledger", "accept-restore", "--ledger", ledger)
    paid_at = json.loads(accepted.stdout)["ends"]
    sent = service.count_requests()
    members.write_text(f"ref,member_id,paid_at\nin the gap,2,{paid_at}\n")
    dry = run(members, "--plan-id", 1, "--ledger", ledger, "--dry-run")
    assert [line["would"] for line in lines(dry)] == ["hold"]
    assert "Of 1 members, 1 would be held as unknown, because they were paid in the period" in dry.stderr
    done = run(members, "--plan-id", 1, "--ledger", ledger)
    assert (done.exit_code, service.count_requests()) == (4, sent)
    assert "0 refused, 1 unknown, 0 still planned." in done.stderr
    assert "Unknown outcomes: 1. These grants are not sent again until you decide:" in done.stderr
    assert "already processed" not in done.stderr
    one = in_process.run("grant", "in the gap, too", "--plan-id", 1, "--ledger", ledger, "--paid-at", paid_at)
    assert (one.exit_code, service.count_requests()) == (4, sent)
    warning = f"{ledger} was restored from an older copy, which lacks the grants made"
    assert warning not in done.stderr
    members.write_text("ref,member_id\nnew,3\n")
    assert run(members, "--plan-id", 1, "--ledger", ledger).stderr.count(warning) == 1
    assert in_process.run("grant", "newer", "--plan-id", 1, "--ledger", ledger).stderr.count(warning) == 1


def test_a_dry_run_with_the_ledger_of_another_bot_is_refused(
    members: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "grants.db"
    run(members, *OPTIONS, "--ledger", ledger)
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "4242")
    done = run(members, *OPTIONS, "--ledger", ledger, "--dry-run")
    assert done.exit_code == 2
    assert "belongs to bot" in done.stderr


def test_a_result_is_the_callers_rows_with_what_became_of_them(members: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.csv"
    done = run(members, *OPTIONS, "--result", result)
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1] == f"Result: {result}"
    rows = table(result)
    assert list(rows[0]) == NAMES
    assert [list(row.values())[:5] for row in rows] == [
        ["1001", "a", "'=cmd|'x'!A0", "-5,00", "granted"],
        ["1002", "b", r"Ada\x07", "9,99", "granted"],
        ["1003", "c", "", "", "refused"],
    ]
    assert "has not talked to the bot" in rows[2]["grant_reason"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "members.csv", "result.csv"]
    if os.name == "posix":
        assert result.stat().st_mode & 0o777 == 0o600


def test_a_workbook_goes_in_and_comes_out_with_links(tmp_path: Path, service: FakeService) -> None:
    book = openpyxl.Workbook()
    written = book.worksheets[0]
    for row in (["Telegram ID", "Payment ID", "Name"], [1001, "a", "'=1+1"], [1002, 77, "=1+1"], [1003, "c", None]):
        written.append(row)
    written["C3"].data_type = "s"
    path, result = tmp_path / "members.xlsx", tmp_path / "result.xlsx"
    book.save(path)
    assert run(path, "--plan-id", 1, "--result", result, "--show-links").exit_code == 3
    links = {token.member_id: token.link for token in service.tokens}
    rows = sheet(result)
    assert rows[0] == ("Telegram ID", "Payment ID", "Name", "grant_status", "grant_link", "grant_reason")
    assert rows[1][:5] == (1001, "a", "'=1+1", "granted", links[1001])
    assert rows[2][:5] == (1002, 77, "=1+1", "granted", links[1002])
    assert openpyxl.load_workbook(result).worksheets[0]["C3"].data_type == "s", "a text, and no formula"
    assert (rows[3][3], rows[3][4]) == ("refused", None)


def test_a_result_is_read_again_and_its_columns_are_replaced(members: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    run(members, *OPTIONS, "--result", first)
    assert run(first, *OPTIONS, "--result", second).exit_code == 3
    assert list(table(second)[0]) == NAMES
    assert [row["grant_status"] for row in table(second)] == ["granted", "granted", "refused"]


def test_a_run_that_ends_early_leaves_a_result_with_what_is_known(
    members: Path, tmp_path: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "result.csv"
    monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "nobody")
    assert run(members, *OPTIONS, "--result", result, "--concurrency", 1).exit_code == 5
    assert [row["grant_status"] for row in table(result)] == ["planned", "not sent", "not sent"]
    assert service.audit == []


def test_rows_that_are_left_out_are_counted_and_in_the_result(tmp_path: Path, service: FakeService) -> None:
    path, result = tmp_path / "payments.csv", tmp_path / "result.csv"
    path.write_text(
        "id,Amount Refunded,Status,telegram_id (metadata)\nch_1,0,Paid,1001\nch_2,0,Failed,1002\nch_3,9,Refunded,1004\n"
    )
    done = run(path, "--plan-id", 1, "--result", result)
    assert done.exit_code == 0
    assert "2 rows are left out: 1 because Status is 'Failed', 1 because Status is 'Refunded'." in done.stderr
    assert [row["grant_status"] for row in table(result)] == ["granted", "left out", "left out"]
    assert len(service.audit) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--result", "result.ods"], "the result is a file .csv or .xlsx"),
        (["--result", "MEMBERS"], "is the file of members"),
        (["--result", "nowhere/result.csv"], "is not a writable folder"),
        (["--dry-run", "--result", "result.csv"], "exclude each other"),
        (["--column", "Order no."], "write each of ref, member_id, plan_id, note, paid_at once"),
        (["--column", "member_id=Nobody"], "no columns are called 'Nobody', for member_id"),
    ],
)
def test_wrong_use_is_told_before_anything_is_sent(
    members: Path, service: FakeService, arguments: list[str], reason: str
) -> None:
    done = run(members, *OPTIONS, *(str(members) if each == "MEMBERS" else each for each in arguments))
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())
    assert service.count_requests() == 0


def test_members_may_come_from_stdin(service: FakeService) -> None:
    done = run("-", "--plan-id", 1, stdin='{"ref": "a", "user_id": 1001, "note": "Клуб"}\n')
    assert (done.exit_code, len(service.audit)) == (0, 1)
    assert done.stderr.startswith("Read stdin: JSON lines, UTF-8; ref; member_id from 'user_id'; note; plan_id is 1.\n")
    assert '"note": "Клуб"' in done.stdout


def test_a_workbook_may_come_from_stdin(service: FakeService, tmp_path: Path) -> None:
    book, path = openpyxl.Workbook(), tmp_path / "members.xlsx"
    book.worksheets[0].append(["ref", "member_id"])
    book.worksheets[0].append(["a", 1001])
    book.save(path)
    assert run("-", "--plan-id", 1, stdin=path.read_bytes()).exit_code == 0
    assert len(service.audit) == 1


def test_what_a_result_lists_is_marked_as_delivered(members: Path, tmp_path: Path) -> None:
    result, ledger = tmp_path / "result.xlsx", tmp_path / "grants.db"
    run(members, *OPTIONS, "--ledger", ledger, "--result", result)
    arguments = ["grants", "mark-delivered", "nobody", "--from", str(result), "--ledger", str(ledger)]
    done = CliRunner().invoke(command, [*arguments, "--column", "ref=Order no."])
    assert done.exit_code == 1
    assert [(line["ref"], line["status"]) for line in lines(done)] == [("a", "delivered"), ("b", "delivered")]
    assert "this ledger has no grant with the ref nobody" in done.stderr
    assert done.stderr.splitlines()[-1] == "2 could not be marked as delivered."

    async def statuses() -> list[str]:
        async with SqliteLedger(ledger, owner=False) as rows:
            return [grant.status async for grant in rows.grants()]

    assert anyio.run(statuses) == ["delivered", "delivered", "refused"]
    assert CliRunner().invoke(command, ["grants", "mark-delivered", "--ledger", str(ledger)]).exit_code == 2
