"""`tgmembership grants`: listing and resolving, also while the owner runs, in a pipe and on a terminal."""

import csv
import io
import json
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import in_process
import pytest
from click.testing import CliRunner, Result
from command_line import COMMAND, ENVIRONMENT, Terminal
from forked import Forked

from tgmembership_async.cli.root import command
from tgmembership_async.cli.time_arguments import parse_time
from tgmembership_async.errors import Forbidden, OutcomeUnknown, ReplyLost
from tgmembership_async.grants import Grant, GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.values.models import AccessToken

PLAN_OF_A_PROJECT = "11111111-1111-4111-8111-111111111111"
TOKEN = "t0kEnThatOpensADoor"
LINK = f"https://t.me/my_bot?start={TOKEN}"
LOST = OutcomeUnknown("it may have acted", cause=ReplyLost("no whole reply came back"), maybe_applied=True)
ENDS = {
    "granted": Settlement(GrantStatus.GRANTED, token=AccessToken(TOKEN, LINK, {"token": TOKEN})),
    "refused": Settlement(GrantStatus.REFUSED, error=Forbidden("this user has not talked to the bot", code=403)),
    "unknown": Settlement(GrantStatus.UNKNOWN, error=LOST, evidence="the reply was lost"),
}


async def fill(ledger: SqliteLedger) -> None:
    for number, (ref, end) in enumerate(ENDS.items(), 1):
        await ledger.claim(GrantRequest(ref, 1, number, note="[red]chat 7"))
        await ledger.settle(ref, end)
    await ledger.claim(GrantRequest("sending", 1, 4))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a ledger whose owner died while it was sending."""
    path = tmp_path / "grants.db"

    async def make() -> None:
        async with SqliteLedger(path) as rows:
            await fill(rows)

    anyio.run(make)
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", str(path))
    return path


run = partial(in_process.run, "grants")


def lines(result: Result) -> list[dict[str, Any]]:
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def ask(path: Path, work: Callable[[SqliteLedger], Coroutine[Any, Any, Any]]) -> Any:
    async def beside() -> Any:
        async with SqliteLedger(path, owner=False) as rows:
            return await work(rows)

    return anyio.run(beside)


@pytest.mark.usefixtures("ledger")
def test_a_list_is_a_line_for_each_grant_without_its_link() -> None:
    told = lines(run("list"))
    assert [(line["ref"], line["status"]) for line in told] == [(ref, ref) for ref in (*ENDS, "sending")]
    assert told[1]["error"] == "this user has not talked to the bot"
    assert TOKEN not in json.dumps(told)


@pytest.mark.usefixtures("ledger")
def test_links_are_listed_when_asked_for() -> None:
    [line] = lines(run("undelivered", "--show-links"))
    assert (line["ref"], line["token"], line["link"]) == ("granted", TOKEN, LINK)
    [line] = lines(run("list", "--status", "unknown", "--show-links"))
    assert (line["token"], line["link"]) == (None, None)


@pytest.mark.usefixtures("ledger")
def test_all_who_are_owed_are_counted_and_not_only_those_shown() -> None:
    done = run("owed", "--limit", 1)
    assert len(done.stdout.splitlines()) == 1
    for count in ("Unknown outcomes: 1.", "Refused: 1.", "Being sent: 1.", "Granted and not marked as delivered: 1."):
        assert count in done.stderr


def test_who_paid_and_has_no_link_is_listed_with_commands_that_can_be_pasted(ledger: Path) -> None:
    ask(ledger, lambda rows: rows.mark_delivered("granted"))
    done = run("owed")
    assert [json.loads(line)["ref"] for line in done.stdout.splitlines()] == ["refused", "unknown", "sending"]
    assert f"Refused: 1. Show the reasons: tgmembership grants list --status refused --ledger {ledger}\n" in done.stderr
    page = run("owed", "--after", "refused", "--limit", 1)
    assert json.loads(page.stdout)["ref"] == "unknown"
    assert page.stderr.startswith("Of the grants shown:\nUnknown outcomes: 1. ")
    assert "Being sent" not in page.stderr
    assert run("owed", "--after", "no such ref").exit_code == 1


@pytest.mark.usefixtures("ledger")
def test_a_list_is_filtered_by_status_time_and_limit() -> None:
    assert [line["ref"] for line in lines(run("list", "--status", "unknown", "--status", "refused"))] == [
        "refused",
        "unknown",
    ]
    assert lines(run("list", "--since", "2999-01-01")) == []
    assert len(lines(run("list", "--since", "5m"))) == 4
    assert len(lines(run("list", "--limit", "2"))) == 2
    assert len(lines(run("list", "--limit", "0"))) == 4


def test_a_missing_ledger_option_is_an_error(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TGMEMBERSHIP_LEDGER")
    assert len(lines(run("list", "--ledger", ledger))) == 4
    missing = run("list")
    assert missing.exit_code == 2
    assert "--ledger" in missing.stderr
    nowhere = run("list", "--ledger", ledger.with_name("none"))
    assert nowhere.exit_code == 2
    assert "does not exist" in nowhere.stderr


def test_a_file_that_is_not_a_ledger_is_an_error_and_unchanged(tmp_path: Path) -> None:
    for content in (b"", b"my notes" * 100):
        path = tmp_path / "notes"
        path.write_bytes(content)
        for arguments in (("list",), ("resolve", "a", "retry", "--reason", "x")):
            done = run(*arguments, "--ledger", path)
            assert done.exit_code in (1, 2)
            assert done.stderr.startswith("Error: ")
            assert done.stderr.count("\n") == 1
            assert path.read_bytes() == content


@pytest.mark.usefixtures("ledger")
def test_a_grant_is_shown_with_its_attempts_and_decisions() -> None:
    assert run("resolve", "unknown", "retry", "--reason", "the customer waits").exit_code == 0
    [line] = lines(run("show", "unknown"))
    assert line["status"] == "planned"
    [attempt] = line["history"]
    assert (attempt["attempt"], attempt["status"], attempt["evidence"]) == (1, "unknown", "the reply was lost")
    [decision] = line["decisions"]
    assert (decision["decision"], decision["reason"]) == ("retry", "the customer waits")


@pytest.mark.usefixtures("ledger")
def test_an_unknown_ref_is_an_error_with_the_next_step() -> None:
    done = run("show", "none")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: this ledger has no grant with the ref none; `tgmembership grants list` lists all refs\n"
    )


@pytest.mark.usefixtures("ledger")
def test_showing_a_grant_in_sending_explains_the_status() -> None:
    assert "If its process ended" in run("show", "sending").stderr


@pytest.mark.parametrize(("content", "token"), [(f"{LINK}\n", (None, LINK)), (TOKEN, (TOKEN, None))])
def test_a_grant_is_resolved_with_its_token(ledger: Path, tmp_path: Path, content: str, token: object) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    done = run("resolve", "unknown", "granted", "--token-file", path, "--reason", "found in the log")
    assert done.exit_code == 0
    assert TOKEN not in done.output
    grant = ask(ledger, lambda rows: rows.get("unknown"))
    assert grant.status is GrantStatus.GRANTED
    assert (grant.token.token, grant.token.link) == token


def test_a_token_can_come_from_stdin(ledger: Path) -> None:
    arguments = ["grants", "resolve", "refused", "granted", "--token-file", "-", "--reason", "by hand"]
    assert CliRunner().invoke(command, arguments, input=f"{TOKEN}\n").exit_code == 0
    assert ask(ledger, lambda rows: rows.get("refused")).token.token == TOKEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("granted", "granted", "--reason", "x"), "granted is granted; only a grant that is refused or unknown"),
        (("unknown", "retry"), "Missing option '--reason'"),
        (("unknown", "again", "--reason", "x"), "the last argument is the decision"),
        (
            ("unknown", "retry", "--token-file", "-", "--reason", "x"),
            "--token-file requires a REF and the decision granted",
        ),
        (("unknown", "granted", "--token-file", "-", "--reason", "x"), "must contain one token or link"),
    ],
)
def test_a_decision_that_is_not_possible_changes_nothing(ledger: Path, arguments: list[str], message: str) -> None:
    done = run("resolve", *arguments)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert ask(ledger, lambda rows: rows.get("unknown")).status is GrantStatus.UNKNOWN


def test_a_grant_that_a_dead_owner_was_sending_can_be_resolved(ledger: Path) -> None:
    assert run("resolve", "sending", "abandon", "--reason", "refunded").exit_code == 0
    assert ask(ledger, lambda rows: rows.get("sending")).status is GrantStatus.ABANDONED


def test_a_planned_grant_is_abandoned_and_nothing_else(ledger: Path) -> None:
    async def plan() -> None:
        async with SqliteLedger(ledger, owner=False) as rows:
            await rows.plan(GrantRequest("later", 1, 9))

    anyio.run(plan)
    assert run("resolve", "later", "retry", "--reason", "x").exit_code != 0
    assert run("resolve", "later", "abandon", "--reason", "refunded").exit_code == 0
    assert ask(ledger, lambda rows: rows.get("later")).status is GrantStatus.ABANDONED


def test_every_command_works_while_the_owner_runs(ledger: Path) -> None:
    async def own() -> None:
        async with SqliteLedger(ledger) as rows:
            await rows.claim(GrantRequest("new", 1, 9))
            done = await anyio.to_thread.run_sync(
                lambda: [
                    run("list"),
                    run("resolve", "unknown", "retry", "--reason", "x"),
                    run("mark-delivered", "granted"),
                    run("purge", "--delivered-before", "2999-01-01"),
                ]
            )
            assert [result.exit_code for result in done] == [0, 0, 0, 0]
            assert "its next `" not in done[0].output
            grant = await rows.get("unknown")
            assert grant is not None
            assert grant.status is GrantStatus.PLANNED
            sending = await rows.get("new")
            assert sending is not None
            assert sending.status is GrantStatus.SENDING

    anyio.run(own)


def test_delivered_links_are_marked_and_purged(ledger: Path) -> None:
    [line] = lines(run("mark-delivered", "granted"))
    assert line["status"] == "delivered"
    assert lines(run("undelivered")) == []
    assert lines(run("purge", "--delivered-before", "1d")) == [{"wiped": 0}]
    assert lines(run("purge", "--delivered-before", "2999-01-01T00:00+02:00")) == [{"wiped": 1}]
    assert ask(ledger, lambda rows: rows.get("granted")).token is None
    assert run("mark-delivered", "refused").exit_code == 1


async def plan_thirty(rows: SqliteLedger) -> None:
    for number in range(30):
        await rows.plan(GrantRequest(f"pi_{number:02}", 1 + number % 2, number + 1, note=f"chat {number}"))


@pytest.fixture
def outage(ledger: Path) -> Path:
    """Add thirty planned grants of two plans to the ledger."""
    ask(ledger, plan_thirty)
    return ledger


RESOLVE = ("resolve", "--status", "planned", "--plan-id", 1, "--match", "CHAT 1", "abandon", "--reason", "refunded")


@pytest.mark.usefixtures("outage")
def test_many_are_resolved_after_a_preview_and_each_is_reported() -> None:
    done = run(*RESOLVE, "--yes")
    assert done.exit_code == 0
    refs = [f"pi_{number}" for number in (10, 12, 14, 16, 18)]
    assert [json.loads(line)["ref"] for line in done.stdout.splitlines()] == refs
    assert "5 grants to decide 'abandon' about: 5 of plan 1." in done.stderr
    assert done.stderr.endswith("Decided 'abandon' about 5 of 5 grants.\n")
    [made] = lines(run("show", "pi_10"))
    assert (made["status"], made["decisions"][0]["reason"]) == ("abandoned", "refunded")
    assert lines(run("show", "pi_11"))[0]["status"] == "planned"
    done = run(*RESOLVE, "--yes")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 grants to decide 'abandon' about.\n")


def test_plans_of_a_bot_and_of_a_project_are_resolved_together(outage: Path) -> None:
    async def plan(ledger: SqliteLedger) -> None:
        await ledger.plan(GrantRequest("of a project", PLAN_OF_A_PROJECT, 1))

    ask(outage, plan)
    done = run("resolve", "--status", "planned", "abandon", "--reason", "refunded", "--yes")
    assert done.exit_code == 0
    assert f"about: 15 of plan 1, 15 of plan 2, 1 of plan {PLAN_OF_A_PROJECT}." in done.stderr


def test_nothing_is_resolved_without_a_confirmation(outage: Path) -> None:
    done = run(*RESOLVE)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "nothing was decided: add --yes to decide 'abandon' about these 5 grants" in done.stderr
    environment = {**ENVIRONMENT, "TGMEMBERSHIP_LEDGER": str(outage)}
    arguments = [*COMMAND, "grants", *map(str, RESOLVE)]
    for answer, status in (("n", "planned"), ("y", "abandoned")):
        with Terminal() as terminal:
            end = terminal.theirs
            with Forked(arguments, stdin=end, stdout=end, stderr=end, env=environment) as process:
                terminal.read_until(r"Decide 'abandon' about 5 grants\? \[y/N\]")
                terminal.write(answer)
                assert process.wait(60) == (130 if answer == "n" else 0)
        assert lines(run("show", "pi_10"))[0]["status"] == status


@pytest.mark.usefixtures("outage")
def test_one_that_cannot_be_resolved_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changed between the preview and the decision."""
    decide = SqliteLedger.decide

    async def decided(rows: SqliteLedger, ref: str, *arguments: Any) -> Grant:
        return await decide(rows, "granted" if ref == "pi_12" else ref, *arguments)

    monkeypatch.setattr(SqliteLedger, "decide", decided)
    done = run(*RESOLVE, "--yes")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 4)
    assert "Error: granted is granted; only a grant that is" in done.stderr
    assert "Decided 'abandon' about 4 of 5 grants." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pi_1", "pi_2", "retry"], "only one REF at a time"),
        (["retry"], "name either a REF, or a --status"),
        (["--plan-id", "1", "retry"], "name either a REF, or a --status"),
        (["--status", "unknown", "pi_1", "retry"], "name either a REF, or a --status"),
        (["--status", "planned", "retry"], "a planned grant can only be abandoned"),
        (["--status", "unknown", "pi_1"], "the last argument is the decision: granted, retry or abandon"),
        ([], "the last argument is the decision"),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_what_to_resolve_is_said_once_and_in_full(arguments: list[str], message: str) -> None:
    done = run("resolve", *arguments, "--reason", "x", "--yes")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.usefixtures("ledger")
def test_each_of_many_is_marked_as_delivered_or_reported() -> None:
    done = run("mark-delivered", "refused", "granted", "missing")
    assert done.exit_code == 1
    assert [json.loads(line)["ref"] for line in done.stdout.splitlines()] == ["granted"]
    told = done.stderr.splitlines()
    assert [line.startswith("Error: ") for line in told] == [True, True, False]
    assert told[-1] == "2 could not be marked as delivered."


def test_the_result_of_one_of_several_bots_is_marked_as_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make() -> None:
        async with SqliteLedger(tmp_path / "bots.db", shared_by_bots=True) as ledger:
            await ledger.bind("https://service.example", 7)
            for ref in ("7:a", "8:a", "8:b"):
                await ledger.claim(GrantRequest(ref, 1, 1))
                await ledger.settle(ref, ENDS["granted"])

    anyio.run(make)
    result = tmp_path / "result.csv"
    result.write_text("ref,grant_status\na,granted\nb,granted\n")
    arguments = ("mark-delivered", "--from", result, "--ledger", tmp_path / "bots.db")
    monkeypatch.delenv("TGMEMBERSHIP_BOT_ID", raising=False)
    assert run(*arguments).exit_code == 1
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "8")
    assert [line["ref"] for line in lines(run(*arguments))] == ["8:a", "8:b"]
    monkeypatch.setenv("TGMEMBERSHIP_BOT_ID", "7")
    assert run(*arguments).exit_code == 1, "b is no ref of this bot"


def test_reconcile_settles_grants_that_the_subscribers_prove(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService()
    service.order(1, 3, at=datetime.now(UTC) + timedelta(minutes=6))
    with serve(service) as server:
        for name, value in {**server.env(), "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        done = run("reconcile")
        assert done.exit_code == 4
        assert done.stderr.startswith("2 grants are unknown; the service is asked about 2 members.")
        assert "an unused link does not show" in done.stderr
        resolve = f"tgmembership grants resolve --status unknown retry --reason ... --ledger {ledger}\n"
        assert resolve in done.stderr
        found = {line["ref"]: line for line in map(json.loads, done.stdout.splitlines())}
        assert (found["unknown"]["status"], found["unknown"]["settled"]) == ("granted", True)
        assert found["unknown"]["seen"][0]["plan_id"] == 1
        assert found["sending"]["settled"] is False
        assert "no subscription" in found["sending"]["why"]
        assert "2 grants were unknown: 1 are now granted, 1 are still unknown." in done.stderr
        assert run("resolve", "sending", "abandon", "--reason", "x").exit_code == 0
        assert run("reconcile").exit_code == 0
        monkeypatch.setenv("TGMEMBERSHIP_API_KEY", "nobody")
        assert run("reconcile").exit_code == 0
    assert ask(ledger, lambda rows: rows.get("unknown")).status is GrantStatus.GRANTED


def test_rejected_credentials_are_a_one_line_error(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del ledger
    with serve(FakeService()) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_API_KEY": "nobody"}.items():
            monkeypatch.setenv(name, value)
        done = run("reconcile")
    assert done.exit_code == 5
    assert done.stderr.splitlines()[-1].startswith("Error: getSubscribers: 401")
    assert done.stderr.count("\n") == 2


@pytest.mark.usefixtures("ledger")
def test_a_terminal_gets_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def table(*arguments: object) -> Result:
        return run(*arguments, "--format", "table")

    shown = table("list", "--show-links").stdout
    assert "this user has not talked to the bot" in shown
    assert "no whole reply came back" in shown  # why, and not the advice around it
    assert "[red]chat 7" in shown  # what a customer wrote is no markup
    assert LINK in shown
    assert LINK not in table("list").stdout
    assert "Only the first 2 are shown; --limit 0 shows all" in table("list", "--limit", "2").stderr
    assert table("list", "--limit", "0").stderr == ""
    assert "the reply was lost" in table("show", "unknown").stdout
    assert "planned" in table("resolve", "unknown", "retry", "--reason", "because").stdout
    assert "because" in table("show", "unknown").stdout
    assert "delivered" in table("mark-delivered", "granted").stdout
    assert table("purge", "--delivered-before", "2w").stdout.split() == ["wiped", "0"]


@pytest.mark.usefixtures("ledger")
def test_every_other_format_has_the_same_rows() -> None:
    told = json.loads(run("list", "--format", "json").stdout)
    assert told == lines(run("list"))
    read = list(csv.DictReader(io.StringIO(run("list", "--format", "csv").stdout)))
    assert [row["ref"] for row in read] == [row["ref"] for row in told]
    assert json.loads(run("show", "unknown", "--format", "json").stdout)["history"][0]["status"] == "unknown"
    assert json.loads(run("list", "--since", "2999-01-01", "--format", "json").stdout) == []


@pytest.mark.usefixtures("ledger")
def test_rows_before_an_error_are_printed_as_valid_json() -> None:
    done = run("mark-delivered", "granted", "refused", "--format", "json")
    assert done.exit_code == 1
    assert [row["ref"] for row in json.loads(done.stdout)] == ["granted"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_is_recognized(ledger: Path) -> None:
    with (
        Terminal() as terminal,
        Forked(
            [*COMMAND, "grants", "list", "--ledger", str(ledger)], stdout=terminal.theirs, env=ENVIRONMENT
        ) as process,
    ):
        terminal.read_until("sending.*4 ")
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "name", ["list", "show", "resolve", "reconcile", "owed", "undelivered", "mark-delivered", "purge"]
)
def test_each_command_has_help_without_a_ledger(name: str) -> None:
    assert "TGMEMBERSHIP_LEDGER" in run(name, "--help").stdout


NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T18:30", datetime(2026, 11, 1, 18, 30, tzinfo=UTC)),
        ("2026-11-01T18:30+02:00", datetime(2026, 11, 1, 16, 30, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("12h", NOW - timedelta(hours=12)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("yesterday", None),
        ("999999w", None),
        ("", None),
    ],
)
def test_a_time_is_a_date_or_a_duration_before_now(text: str, found: datetime | None) -> None:
    assert parse_time(text, NOW) == found


@pytest.mark.usefixtures("ledger")
def test_an_invalid_time_is_an_error_with_examples() -> None:
    done = run("list", "--since", "yesterday")
    assert done.exit_code == 2
    assert "'yesterday' is not a time: use 2026-11-01" in done.stderr
