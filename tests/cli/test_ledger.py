"""`tgmembership ledger`, and commands with `--ledger`: files and PostgreSQL servers, and copies between them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from command_line import tgmembership
from in_process import run
from own_schema import own_schema

from tgmembership_async import PostgresGate
from tgmembership_async.cli.ledger_option import Server
from tgmembership_async.errors import Forbidden, GrantError, OutcomeUnknown, ReplyLost, UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, Ledger, PostgresLedger, Settlement, SqliteLedger
from tgmembership_async.grants.copying import PAGE, Copied, Entry, copy
from tgmembership_async.grants.postgres.copying import PostgresStore
from tgmembership_async.grants.sqlite.copying import SqliteStore
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.values.models import AccessToken
from tgmembership_async.webhooks import Delivery, SqliteInbox
from tgmembership_async.webhooks.inbox import Arrival

PLAN_OF_A_PROJECT = "11111111-1111-4111-8111-111111111111"
PASSWORD = "s3cret-of-the-database"
TOKEN = AccessToken("t0kEn", "https://t.me/my_bot?start=t0kEn", {"token": "t0kEn", "ü": [1.5, None]})
LOST = OutcomeUnknown("it may have acted", cause=ReplyLost("no whole reply came back"), maybe_applied=True)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
NO = Forbidden("this user has not talked to the bot", code=403)


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


async def fill(ledger: Ledger) -> None:
    """Write a row in every status except sending, with all kinds of attempts and decisions."""
    await ledger.plan(GrantRequest("planned", 1, 1, 'a note, "quoted"; and\tüber alles'))
    for number, ref in enumerate(("granted", "delivered", "purged", "refused", "unknown", "abandoned", "again"), 2):
        assert (await ledger.claim(GrantRequest(ref, 2**63 - 1 if ref == "granted" else 1, number))).mine
    for ref in ("granted", "delivered", "purged"):
        await ledger.settle(ref, Settlement(GrantStatus.GRANTED, token=TOKEN, evidence="ok: true"))
    await ledger.mark_delivered("purged")
    await ledger.purge(datetime.now(UTC) + timedelta(days=1000))
    await ledger.mark_delivered("delivered")
    await ledger.settle("refused", Settlement(GrantStatus.REFUSED, error=NO, evidence="403"))
    for ref in ("unknown", "abandoned", "again"):
        await ledger.settle(ref, Settlement(GrantStatus.UNKNOWN, error=LOST, evidence="lost \\ reply"))
    await ledger.decide("abandoned", "abandon", None, "refunded")
    for reason in ("once more", "and again"):
        await ledger.decide("again", "retry", None, reason)
        await ledger.claim(GrantRequest("again", 1, 8))
        await ledger.settle("again", Settlement(GrantStatus.UNKNOWN, error=LOST))
    await ledger.plan(GrantRequest("of a project", PLAN_OF_A_PROJECT, 9))
    await ledger.claim(GrantRequest("died", 1, None))


async def everything(ledger: Ledger) -> list[Any]:
    await ledger.open()
    try:
        rows = [grant async for grant in ledger.grants()]
        return [
            (grant, repr(grant.error), await ledger.attempts(grant.ref), await ledger.decisions(grant.ref))
            for grant in rows
        ]
    finally:
        await ledger.aclose()


def told(where: Ledger) -> list[Any]:
    return anyio.run(everything, where)


def make(ledger: Ledger) -> None:
    async def make() -> None:
        await ledger.open()
        await fill(ledger)
        await ledger.aclose()

    anyio.run(make)


def test_a_copy_from_a_file_to_a_server_and_back_keeps_everything(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands as child processes, with a password in the environment that must not be printed."""
    if "@" not in url:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    there, back = tmp_path / "grants.db", tmp_path / "back.db"
    make(SqliteLedger(there))
    before = told(SqliteLedger(there))
    assert len({row[0].status for row in before}) == len(GrantStatus) - 1
    assert [row[0].ref for row in before if row[2] and row[2][-1].ended_at is None] == ["died"]
    for source, target in ((there, url), (url, back)):
        done = tgmembership("ledger", "copy", str(source), str(target))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"rows": 10, "added": 10}
        assert "10 rows, 10 of them new." in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        again = tgmembership("ledger", "copy", str(source), str(target))
        assert json.loads(again.stdout) == {"rows": 10, "added": 0}
    assert told(PostgresLedger(url)) == before
    assert told(SqliteLedger(back)) == before


def test_a_row_that_differs_is_left_unchanged(tmp_path: Path, url: str) -> None:
    path = tmp_path / "grants.db"

    async def meddle() -> None:
        async with PostgresLedger(url) as ledger:
            await ledger.plan(GrantRequest("unknown", 1, 6))

    make(SqliteLedger(path))
    anyio.run(meddle)
    done = run("ledger", "copy", path, url)
    assert done.exit_code == 1
    assert "unknown is unknown here (1 attempts) and planned there (0 attempts)" in done.stderr
    assert [row[0].ref for row in told(PostgresLedger(url))] == ["unknown"], "a page is taken in as a whole"


@pytest.mark.parametrize("way", ["to a server", "to a file"])
def test_an_interrupted_copy_continues(tmp_path: Path, url: str, way: str) -> None:
    path = tmp_path / "grants.db"
    total = PAGE + 100
    file, database = SqliteStore(path), PostgresStore(url)
    first: Ledger = SqliteLedger(path) if way == "to a server" else PostgresLedger(url)
    source, target = (file, database) if way == "to a server" else (database, file)

    async def plan() -> None:
        await first.open()
        async with anyio.create_task_group() as group:
            numbers = count()
            for _ in range(20):
                group.start_soon(plan_some, numbers)
        await first.aclose()

    async def plan_some(numbers: Iterator[int]) -> None:
        while (number := next(numbers)) < total:
            await first.plan(GrantRequest(f"r{number}", 1, number + 1))

    def cut(done: int, rows: int) -> None:
        assert rows == total
        if done >= PAGE:
            raise KeyboardInterrupt

    async def copied(progress: Any) -> Copied:
        try:
            await source.open()
            await target.open()
            return await copy(source, target, progress)
        finally:
            await target.aclose()
            await source.aclose()

    anyio.run(plan)
    with pytest.raises(KeyboardInterrupt):
        anyio.run(copied, cut)
    assert anyio.run(copied, lambda *_: None) == Copied(total, total - PAGE)
    assert told(SqliteLedger(path)) == told(PostgresLedger(url))


def test_a_ledger_in_use_is_not_copied(tmp_path: Path, url: str) -> None:
    path = tmp_path / "grants.db"

    async def changing(ledger: PostgresLedger) -> None:
        source, target = PostgresStore(url), SqliteStore(path)

        async def copied(progress: Any) -> None:
            await copy(source, target, progress)

        await source.open()
        await target.open()
        try:
            with pytest.raises(UsageError, match="1 rows are being sent right now: stop the workers"):
                await copied(lambda *_: None)
            await ledger.settle("a", Settlement(GrantStatus.GRANTED, token=TOKEN))
            meddle = ledger._storage.server

            def change(*_: object) -> None:
                with meddle.connect() as lane:
                    lane.execute("UPDATE tgm_grants SET status = 'delivered', updated_at = now() + interval '1 s'")

            with pytest.raises(UsageError, match="was changed while it was copied"):
                await copied(change)
            with pytest.raises(GrantError, match="a is delivered here"):
                await copied(lambda *_: None)
        finally:
            await target.aclose()
            await source.aclose()

    async def main() -> None:
        async with PostgresLedger(url) as ledger:
            await ledger.claim(GrantRequest("a", 1, 42))
            await changing(ledger)

    anyio.run(main)


@pytest.mark.parametrize("how", ["a grant", "a decision"])
def test_a_change_by_a_worker_whose_clock_is_slow_is_noticed(tmp_path: Path, url: str, how: str) -> None:

    async def main() -> None:
        async with PostgresLedger(url) as ledger:
            await ledger.claim(GrantRequest("a", 1, 1))
            await ledger.settle("a", Settlement(GrantStatus.UNKNOWN, error=LOST))
            await ledger.plan(GrantRequest("b", 1, 2))
            await ledger.plan(GrantRequest("the last change", 1, 3))
        source, target = PostgresStore(url), Overtaken(tmp_path / "new.db")
        await source.open()
        await target.open()
        try:
            with pytest.raises(UsageError, match="was changed while it was copied"):
                await copy(source, target, lambda *_: None)
        finally:
            await target.aclose()
            await source.aclose()

    class Overtaken(SqliteStore):
        async def take_in(self, entries: list[Entry]) -> int:
            added = await super().take_in(entries)
            async with PostgresLedger(url, clock=lambda: NOW) as slow:
                if how == "a grant":
                    await slow.claim(GrantRequest("b", 1, 2))
                    await slow.settle("b", Settlement(GrantStatus.GRANTED, token=TOKEN))
                else:
                    for decision in ("retry", "abandon"):
                        await slow.decide("a" if decision == "retry" else "b", decision, None, "")
            return added

    anyio.run(main)


def test_a_ref_that_postgresql_cannot_store_is_named(tmp_path: Path, url: str) -> None:
    path = tmp_path / "grants.db"

    async def plan() -> None:
        async with SqliteLedger(path) as ledger:
            await ledger.plan(GrantRequest("ü" * 1000, 1))
            await ledger.plan(GrantRequest("€" * 1000, 1))

    anyio.run(plan)
    done = run("ledger", "copy", path, url)
    assert done.exit_code == 2
    assert "€€... has more than 2,000 bytes" in done.stderr


def test_init_creates_a_ledger_and_its_queue_and_migrate_needs_a_ledger(url: str, tmp_path: Path) -> None:
    missing = run("ledger", "migrate", "--ledger", url)
    assert missing.exit_code == 2
    assert "has no ledger: check the name, or create one: tgmembership ledger init" in missing.stderr
    for _ in range(2):
        assert run("ledger", "init", "--ledger", url, "--queue").exit_code == 0
    assert run("ledger", "migrate", "--ledger", url).exit_code == 0
    assert run("ledger", "init", "--ledger", tmp_path / "grants.db").exit_code == 0
    assert run("ledger", "migrate", "--ledger", tmp_path / "grants.db").exit_code == 0
    assert run("ledger", "migrate", tmp_path / "grants.db").stderr.endswith("grants.db is up to date.\n")
    for words in ([], [tmp_path / "grants.db", "--ledger", tmp_path / "grants.db"]):
        assert "name one ledger: --ledger FILE" in run("ledger", "migrate", *words).stderr
    assert "does not exist" in run("ledger", "migrate", "--ledger", tmp_path / "none.db").stderr
    assert "requires a ledger on a server" in run("ledger", "init", "--ledger", tmp_path / "a.db", "--queue").stderr


def test_reading_creates_no_ledger(url: str) -> None:
    for arguments in (("list",), ("resolve", "a", "retry", "--reason", "x")):
        done = run("grants", *arguments, "--ledger", url)
        assert done.exit_code == 2
        assert "has no ledger" in done.stderr
    assert run("ledger", "copy", url, "nowhere.db").exit_code == 2
    assert not Path("nowhere.db").exists()


def test_grants_of_a_server_are_listed_and_resolved(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(PostgresLedger(url))
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", url)
    listed = [json.loads(line) for line in run("grants", "list", "--status", "unknown").stdout.splitlines()]
    assert [line["ref"] for line in listed] == ["unknown", "again", "died"]
    decided = run("grants", "resolve", "died", "retry", "--reason", "no link in the log")
    assert (decided.exit_code, json.loads(decided.stdout)["status"]) == (0, "planned")
    assert run("grants", "mark-delivered", "granted").exit_code == 0
    assert json.loads(run("grants", "purge", "--delivered-before", "2999-01-01").stdout) == {"wiped": 2}
    shown = json.loads(run("grants", "show", "again").stdout)
    assert (len(shown["history"]), len(shown["decisions"])) == (3, 2)


def test_unknown_ones_of_a_server_are_reconciled(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(PostgresLedger(url))
    with serve(FakeService()) as server:
        for name, value in {**server.env(), "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": url}.items():
            monkeypatch.setenv(name, value)
        done = run("grants", "reconcile")
    assert done.exit_code == 4
    assert "3 grants were unknown: 0 are now granted, 3 are still unknown." in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        f"mysql://root:{PASSWORD}@db/shop",
        f"postgresql://root:{PASSWORD}@[::/shop",
        f"postgresql://q:{PASSWORD}?rest@h/db",
        f"postgresql://q:12?{PASSWORD}@h/db",
        f"postgresql://q:{PASSWORD}/rest@h/db",
        f"postgresql://q:12/{PASSWORD}@h/db",
        f"postgresql://q:12?options={PASSWORD}@h/db",
        f"postgresql://q:a@{PASSWORD}@h/db",
        f"postgresql://q:a:{PASSWORD}@h/db",
        f"postgresql:/q:{PASSWORD}@h/db",
        f"postgresql:q:{PASSWORD}@h/db",
        f"POSTGRESQL://q:{PASSWORD}@h/db",
        f"host=h password={PASSWORD}",
        f"password = '{PASSWORD}'",
        f" postgresql://q:{PASSWORD}@h/db",
        f"postgresql://q:{PASSWORD}\udcff@h/db",
    ],
)
def test_an_invalid_ledger_is_neither_quoted_nor_created(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (("grants", "list"), ("ledger", "init")):
        done = run(*arguments, "--ledger", value)
        assert done.exit_code == 2
        assert "postgresql://user@host/database" in " ".join(done.stderr.replace("│", " ").split())
        assert PASSWORD not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_a_one_line_error_without_the_password(
    refused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://shop:{PASSWORD}@127.0.0.1:{refused_port}/shop?sslpassword={PASSWORD}"
    monkeypatch.setenv("TGMEMBERSHIP_LEDGER", url)
    for arguments in (("grants", "list"), ("ledger", "init"), ("worker",)):
        done = tgmembership(*arguments)
        assert done.returncode in (1, 2)
        assert PASSWORD not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://shop:{PASSWORD}@db/shop",
        f"postgres://shop@db/shop?sslmode=require&p%61ssword={PASSWORD}",
        f"postgresql:///shop?sslpassword={PASSWORD}",
        f"postgresql:///shop?oauth_client_secret={PASSWORD}",
    ],
)
def test_a_password_on_the_command_line_is_refused(url: str, tmp_path: Path) -> None:
    """`ps` shows it. The environment variable and PGPASSWORD are not shown to other users."""
    make(SqliteLedger(tmp_path / "grants.db"))
    for arguments in (
        ("grants", "list", "--ledger", url),
        ("worker", "--ledger", url),
        ("report", "--ledger", url),
        ("ledger", "pauses", "--ledger", url),
        ("ledger", "copy", url, tmp_path / "grants.db"),
        ("ledger", "copy", tmp_path / "grants.db", url),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        told = " ".join(done.stderr.replace("│", " ").split())
        assert "the password in this URL: leave the password out" in told
        assert "PGPASSWORD" in told
        assert "TGMEMBERSHIP_LEDGER" in told
        assert PASSWORD not in done.stderr + done.stdout


def test_a_url_is_shown_without_its_secrets() -> None:
    shown = {
        "postgresql://u:p@h/db": "postgresql://u@h/db",
        "postgresql:///db?host=/run&password=p": "postgresql:///db?host=/run",
        "postgres://u:p%40@h1:1,h2:2/db?p%61ssword=p&options=-c%20a%3Db": "postgres://u@h1:1,h2:2/db?options=-c%20a%3Db",
        "postgresql://h": "postgresql://h",
        "postgresql://u:p#q@h/db": "postgresql://u@h/db",
        "postgresql://u:p@%2Frun:5432/db?sslmode=require": "postgresql://u@%2Frun:5432/db?sslmode=require",
        "postgresql://u@[::1]:5432,h/db?oauth_client_secret=p": "postgresql://u@[::1]:5432,h/db",
        "postgresql://u:p?x@h": "postgresql://",
    }
    assert {url: str(Server(url)) for url in shown} == shown
    assert repr(Server("postgresql://u:p@h")) == "Server()"


def test_a_ledger_is_backed_up_and_an_older_one_is_accepted(tmp_path: Path) -> None:
    path, backup = tmp_path / "grants.db", tmp_path / "backup.db"
    make(SqliteLedger(path))
    assert run("ledger", "backup", backup, "--ledger", path).exit_code == 0
    again = run("ledger", "backup", backup, "--ledger", path)
    assert again.exit_code == 2
    assert "backup.db is there already" in again.stderr
    assert "nothing to accept" in run("ledger", "accept-restore", "--ledger", path).stderr
    anyio.run(plan, path, "new")
    backup.replace(path)
    refused = run("ledger", "migrate", "--ledger", path)
    assert refused.exit_code == 2
    assert "is an older copy" in refused.stderr
    accepted = run("ledger", "accept-restore", "--ledger", path)
    assert accepted.exit_code == 0
    told = json.loads(accepted.stdout)
    assert told["begins"] < told["ends"]
    assert told["unknown"] > 0
    assert f"grants list --status unknown --ledger {path}" in accepted.stderr
    assert run("grants", "list", "--status", "planned", "--ledger", path).stdout == ""
    assert run("ledger", "migrate", "--ledger", path).exit_code == 0


async def plan(path: Path, ref: str, paid_at: datetime | None = None) -> GrantStatus:
    async with SqliteLedger(path) as ledger:
        return (await ledger.plan(GrantRequest(ref, 1, paid_at=paid_at))).status


def test_a_copy_of_a_restored_ledger_holds_what_was_paid_in_the_gap(tmp_path: Path, url: str) -> None:
    path, backup, target = tmp_path / "grants.db", tmp_path / "backup.db", tmp_path / "new.db"
    make(SqliteLedger(path))
    assert run("ledger", "backup", backup, "--ledger", path).exit_code == 0
    anyio.run(plan, path, "paid in the gap")
    backup.replace(path)
    paid_at = datetime.fromisoformat(json.loads(run("ledger", "accept-restore", "--ledger", path).stdout)["ends"])
    for added in (10, 0):
        assert json.loads(run("ledger", "copy", path, target).stdout) == {"rows": 10, "added": added}
    for file in (path, target):
        assert anyio.run(plan, file, "paid in the gap", paid_at) is GrantStatus.UNKNOWN
        assert anyio.run(plan, file, "planned since the gap") is GrantStatus.PLANNED
    refused = run("ledger", "copy", path, url)
    assert refused.exit_code == 2
    assert "would send them again: first provision the payments of that period" in refused.stderr
    assert told(PostgresLedger(url)) == []
    assert json.loads(run("ledger", "copy", path, url, "--forget-gaps").stdout) == {"rows": 12, "added": 12}
    assert told(PostgresLedger(url)) == told(SqliteLedger(path))


def test_an_older_inbox_is_accepted_without_creating_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"

    async def leave(*, restored: bool = False) -> None:
        async with SqliteInbox(path, restored=restored) as inbox:
            await inbox.store(Arrival(Delivery(NOW, "n", b"b", f"{NOW:%f}"), NOW), repeat_window=1)

    anyio.run(leave)
    path.unlink()
    with pytest.raises(UsageError, match="is missing"):
        anyio.run(leave)
    path.touch()
    accepted = run("ledger", "accept-restore", "--ledger", path)
    assert json.loads(accepted.stdout)["unknown"] == 0
    anyio.run(leave)
    assert "holds no ledger" in run("grants", "list", "--ledger", path).stderr


def test_backing_up_a_server_names_its_own_tools(tmp_path: Path) -> None:
    for arguments in (("backup", tmp_path / "a.db"), ("accept-restore",)):
        done = run("ledger", *arguments, "--ledger", "postgresql://shop@db/shop")
        assert done.exit_code == 2
        assert "postgresql://shop@db/shop is on a server" in done.stderr


def test_copying_a_ledger_to_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    make(SqliteLedger(path))
    assert "are the same ledger" in run("ledger", "copy", path, path).stderr


def test_the_file_of_a_running_owner_is_not_copied(tmp_path: Path, url: str) -> None:
    path = tmp_path / "grants.db"

    async def own() -> None:
        async with SqliteLedger(path):
            done = await anyio.to_thread.run_sync(run, "ledger", "copy", path, url)
            assert done.exit_code == 2
            assert "in use" in done.stderr

    anyio.run(own)


def test_pauses_are_shown_and_lifted(url: str) -> None:
    async def pause() -> None:
        async with PostgresGate(url) as gate:
            await gate.pause(1, 600)
            await gate.pause(2, 60)

    def shown(*options: str) -> tuple[list[int], str]:
        result = run("ledger", "pauses", "--ledger", url, *options)
        assert result.exit_code == 0, result.output
        return [json.loads(line)["bot_id"] for line in result.stdout.splitlines()], result.stderr

    assert run("ledger", "pauses", "--ledger", url).exit_code == 2, "there is no ledger"
    run("ledger", "init", "--ledger", url)
    assert shown() == ([], "0 pauses.\n")
    anyio.run(pause)
    assert shown() == ([1, 2], "2 pauses.\n")
    assert shown("2", "--lift") == ([2], "1 pause lifted; restart the running workers.\n")
    assert shown()[0] == [1]
    assert shown("--lift")[0] == [1]
    assert shown()[0] == []


def test_a_file_shares_no_pauses(tmp_path: Path) -> None:
    result = run("ledger", "pauses", "--ledger", str(tmp_path / "grants.db"))
    assert result.exit_code == 2
    assert "postgresql://" in result.stderr
