"""SqliteLedger: what it guarantees beyond what every ledger guarantees."""

import random
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import evolve
from forked import Forked
from note_table import NOTES, busy, opened, python

from tgmembership_async.errors import GrantError, OutcomeUnknown, RefConflict, ServerError, StorageError, UsageError
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.grants.model import dump_error
from tgmembership_async.grants.sqlite import ledger as sqlite
from tgmembership_async.grants.sqlite import statements
from tgmembership_async.grants.sqlite.tables import LEDGER
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.values.models import AccessToken

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def request(ref: str) -> GrantRequest:
    return GrantRequest(ref, plan_id=1, member_id=42)


def granted(secret: str, raw: Any = None) -> Settlement:
    link = f"https://t.me/shop_bot?start={secret}"
    return Settlement(GrantStatus.GRANTED, token=AccessToken(token=secret, link=link, raw=raw), evidence="ok: true")


async def grant(ledger: SqliteLedger, ref: str, secret: str = "tok", raw: Any = None) -> None:
    await ledger.claim(request(ref))
    await ledger.settle(ref, granted(secret, raw))


async def refs(rows: AsyncIterator[Any]) -> list[str]:
    return [row.ref async for row in rows]


OWNER = """
import anyio
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.values.models import AccessToken

async def grant(ledger, worker):
    for number in range(1_000_000):
        ref = f"{worker}-{number}"
        claim = await ledger.claim(GrantRequest(ref, 1, 42))
        assert claim.mine
        await ledger.settle(ref, Settlement(GrantStatus.GRANTED, token=AccessToken(token=ref)))
        print(ref, flush=True)

async def main():
    async with SqliteLedger(sys.argv[1]) as ledger, anyio.create_task_group() as group:
        await ledger.claim(GrantRequest("held", 1, 42))
        await ledger.settle("held", Settlement(GrantStatus.UNKNOWN))
        await ledger.claim(GrantRequest("in the middle", 1, 42))
        for worker in range(8):
            group.start_soon(grant, ledger, worker)

anyio.run(main, backend=sys.argv[2])
"""


@contextmanager
def a_busy_owner(path: Path, backend: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that owns the ledger and grants until it is killed."""
    owner = Forked(python(OWNER, path, backend), stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        yield owner
    finally:
        owner.kill()
        owner.communicate(timeout=60)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_after_a_kill_what_was_told_is_there_and_what_was_sent_is_unknown(
    run: Run, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "grants.db"
    with a_busy_owner(path, backend) as owner:
        assert owner.stdout is not None
        told = {owner.stdout.readline().strip() for _ in range(100)}
        owner.send_signal(signal.SIGKILL)
        told.update(line.strip() for line in owner.stdout if line.endswith("\n"))
        owner.wait(10)

    async def scenario() -> None:
        async with SqliteLedger(path) as ledger:
            assert told <= set(await refs(ledger.grants([GrantStatus.GRANTED])))
            assert await refs(ledger.grants([GrantStatus.SENDING])) == []
            unknown = await refs(ledger.grants([GrantStatus.UNKNOWN]))
            assert unknown[:2] == ["held", "in the middle"]
            assert len(unknown) <= 2 + 8
            for ref in unknown[1:]:
                row = await ledger.get(ref)
                assert row is not None
                assert isinstance(row.error, OutcomeUnknown)
                assert row.error.maybe_applied
                assert "died before the answer was recorded" in str(row.error)
                (attempt,) = await ledger.attempts(ref)
                assert (attempt.ended_at, attempt.status) == (None, GrantStatus.UNKNOWN)

    run(scenario)


def test_one_reads_plans_and_decides_beside_a_busy_owner(run: Run, backend: str, quick_path: Path) -> None:
    path = quick_path / "grants.db"

    async def scenario() -> None:
        async with SqliteLedger(path, owner=False) as ledger:
            rows = await refs(ledger.grants())
            assert len(rows) == len(set(rows))
            in_the_middle = await ledger.get("in the middle")
            assert in_the_middle is not None
            assert in_the_middle.status is GrantStatus.SENDING, "its owner lives"
            await ledger.plan(request("for later"))
            await ledger.decide("held", "granted", AccessToken(token="found"), "seen in the panel")
            await ledger.mark_delivered("held")
            assert [made.reason for made in await ledger.decisions("held")] == ["seen in the panel"]
            with pytest.raises(GrantError, match="in the middle is sending"):
                await ledger.decide("in the middle", "retry", None, "")
            assert await ledger.purge(datetime.now(UTC) + timedelta(days=1)) == 1

    with a_busy_owner(path, backend) as owner:
        run(scenario)
        assert owner.poll() is None


def test_a_lease_that_was_lost_postpones_nothing(run: Run, quick_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    minute = timedelta(minutes=1)

    async def scenario() -> None:
        nonlocal now
        async with SqliteLedger(quick_path / "grants.db", clock=lambda: now) as ledger:
            await grant(ledger, "a")
            slow = await ledger.begin_follow_up("a", lease=minute, grace=minute)
            assert slow is not None
            now += 2 * minute
            other = await ledger.begin_follow_up("a", lease=minute, grace=minute)
            assert other is not None
            assert not await ledger.postpone(slow, failures=9, due_at=now + timedelta(days=1))
            await ledger.end_follow_up(other)
            again = await ledger.begin_follow_up("a", lease=minute, grace=minute)
            assert again is not None
            assert again.failures == 0

    run(scenario)


def test_who_does_not_own_it_does_not_send(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        path = quick_path / "grants.db"
        async with SqliteLedger(path) as owner, SqliteLedger(path, owner=False) as beside:
            await beside.plan(request("a"))
            with pytest.raises(UsageError, match="only its owner sends"):
                await beside.claim(request("a"))
            assert (await owner.claim(request("a"))).mine
            with pytest.raises(UsageError, match="only its owner sends"):
                await beside.settle("a", granted("tok"))
            await owner.settle("a", Settlement(GrantStatus.UNKNOWN))
            await beside.decide("a", "retry", None, "the customer waits")
            assert (await owner.claim(request("a"))).grant.attempts == 2

    run(scenario)


def test_a_second_owner_in_one_process_would_disturb_what_is_being_sent(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            await ledger.claim(request("a"))
            with pytest.raises(UsageError, match="in use by this process already"):
                await SqliteLedger(quick_path / "grants.db").open()
            assert (await ledger.settle("a", granted("tok"))).status is GrantStatus.GRANTED

    run(scenario)


def test_a_ledger_shares_its_file_with_other_components(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        path = quick_path / "shop.db"
        async with opened(path, NOTES), SqliteLedger(path) as ledger:
            await grant(ledger, "a")
        async with SqliteLedger(path, owner=False) as ledger:
            assert await refs(ledger.grants()) == ["a"]
        with pytest.raises(UsageError, match="no ledger: open it once as its owner"):
            async with opened(quick_path / "notes.db", NOTES):
                await SqliteLedger(quick_path / "notes.db", owner=False).open()

    run(scenario)


def test_a_full_disk_stops_the_work_with_the_state_intact(run: Run, quick_path: Path) -> None:
    async def limit(ledger: SqliteLedger, pages: int) -> None:
        await ledger._storage.write(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            await ledger.claim(request("sent"))
            await limit(ledger, 1)
            done = 0

            async def plan_on() -> None:
                nonlocal done
                for done in range(10_000):
                    await ledger.plan(GrantRequest(str(done), 1, note="x" * 500))

            with pytest.raises(StorageError, match="disk is full"):
                await plan_on()
            assert len(await refs(ledger.grants([GrantStatus.PLANNED]))) == done
            with pytest.raises(StorageError, match="disk is full"):
                await ledger.settle("sent", granted("x" * 20_000))
            still = await ledger.get("sent")
            assert still is not None
            assert still.status is GrantStatus.SENDING
            assert [attempt.ended_at for attempt in await ledger.attempts("sent")] == [None]
            await limit(ledger, 1_000_000)
            assert (await ledger.settle("sent", granted("x" * 20_000))).token is not None

    run(scenario)


class FailsAfterCommit(sqlite3.Connection):
    """A disk that fails after COMMIT is durable, as SQLite syncs the folder."""

    failing = False

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        done = super().execute(statement, *values)
        if self.failing and statement == "COMMIT":
            msg = "disk I/O error"
            raise sqlite3.OperationalError(msg)
        return done


def test_a_claim_that_failed_and_was_committed_all_the_same_is_planned_again(
    run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=FailsAfterCommit))

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            assert (await ledger.claim(request("mine"))).mine
            await ledger.plan(request("planned"))
            monkeypatch.setattr(FailsAfterCommit, "failing", True)
            for ref in ("new", "planned", "new"):
                with pytest.raises(StorageError, match="disk I/O error"):
                    await ledger.claim(request(ref))
            monkeypatch.setattr(FailsAfterCommit, "failing", False)
            assert [(row.ref, row.status) async for row in ledger.grants()] == [
                ("mine", GrantStatus.SENDING),
                ("planned", GrantStatus.PLANNED),
                ("new", GrantStatus.PLANNED),
            ]
            [attempt] = await ledger.attempts("new")
            assert (attempt.status, "was not sent" in attempt.evidence) == (GrantStatus.PLANNED, True)
            for ref in ("new", "planned"):
                assert (await ledger.claim(request(ref))).mine
            assert await ledger.count() == {GrantStatus.SENDING: 3}
            assert (await ledger.settle("new", granted("tok"))).attempts == 2

    run(scenario)


@pytest.mark.parametrize("size", [10, 300, 10_000])
def test_a_purged_token_is_nowhere_in_the_file(quick_path: Path, size: int) -> None:
    dice = random.Random(size)
    secrets = [f"{number:06}-{dice.getrandbits(100):025}" for number in range(400 if size < 5_000 else 40)]
    path = quick_path / "grants.db"

    async def scenario() -> None:
        async with SqliteLedger(path) as ledger:
            order = list(map(str, range(len(secrets))))
            for ref in dice.sample(order, len(order)):
                await ledger.claim(request(ref))
            for ref in dice.sample(order, len(order)):
                raw = {"code": secrets[int(ref)], "padding": "x" * dice.randrange(size)}
                await ledger.settle(ref, granted(secrets[int(ref)], raw))
            *first, a, b = dice.sample(order, len(order))
            for ref in first:
                await ledger.mark_delivered(ref)
            assert secrets[0].encode() in path.read_bytes()
            assert await ledger.purge(datetime.now(UTC)) == len(first)
            for ref in (a, b):
                row = await ledger.mark_delivered(ref)
                assert row.token is not None
                assert row.token.token == secrets[int(ref)]
            assert await ledger.purge(datetime.now(UTC)) == 2

    anyio.run(scenario)
    content = path.read_bytes()
    assert not any(secret.encode() in content for secret in secrets)
    assert sorted(file.name for file in quick_path.iterdir()) == ["grants.db", "grants.db.lock"]


def test_the_file_itself_refuses_what_no_ledger_does(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            await grant(ledger, "a")
            await ledger.claim(request("b"))
            await ledger.settle("b", Settlement(GrantStatus.UNKNOWN))
            await ledger.decide("b", "abandon", None, "")

    run(scenario)
    with closing(sqlite3.connect(quick_path / "grants.db")) as connection:
        for statement in (
            "DELETE FROM grants",
            "DELETE FROM attempt",
            "UPDATE attempt SET evidence = 'nothing to see here'",
            "DELETE FROM decision",
            "UPDATE decision SET reason = 'it was not me'",
            "UPDATE grants SET status = 'fine'",
            "UPDATE grants SET status = 'planned' WHERE ref = 'a'",
            "UPDATE grants SET plan_id = 'one'",
            "UPDATE grants SET ref = 'b'",
            "INSERT INTO attempt VALUES (1, 2, 0, NULL, 'sending', '')",
            "INSERT INTO attempt VALUES (1, 2, 1, 0, 'sending', '')",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)


def test_a_row_is_changed_only_from_the_state_it_was_found_in(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            found = await ledger.plan(request("a"))
            sending = (await ledger.claim(request("a"))).grant
            row = statements.Row(1, found)
            with pytest.raises(GrantError, match="a is not planned any more"):
                await ledger._storage.write(lambda connection: statements.replace(connection, [(row, sending)]))
            assert await ledger.get("a") == sending

    run(scenario)


def counted(rounds: list[int], jobs: Any, connection: sqlite3.Connection, ones: Sequence[Any]) -> Any:
    rounds.append(len(ones))
    return jobs(connection, ones)


@pytest.mark.parametrize("one_fails", [False, True])
def test_each_of_those_that_share_a_commit_gets_what_is_its_own(run: Run, quick_path: Path, *, one_fails: bool) -> None:
    told: dict[str, list[object]] = {}

    async def tell(what: str, coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            result = await coroutine()
        except (GrantError, RefConflict) as error:
            result = type(error)
        told.setdefault(what, []).append(result)

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            await grant(ledger, "granted")
            await ledger.plan(request("planned"))
            await ledger.plan(GrantRequest("another's", 1, 999))
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for ref in ("a", "b", "granted", "planned", "b", "c", *["another's"] * one_fails):
                    group.start_soon(tell, ref, partial(ledger.claim, request(ref)))
                    await anyio.wait_all_tasks_blocked()
            mine = {ref: sorted(str(getattr(claim, "mine", claim)) for claim in claims) for ref, claims in told.items()}
            assert mine.pop("another's", None) == ([str(RefConflict)] if one_fails else None)
            once, not_again = ["True"], ["False"]
            assert mine == {"a": once, "b": not_again + once, "c": once, "granted": not_again, "planned": once}
            told.clear()
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for ref in ("a", "planned", *["nobody's", "a"] * one_fails, "b", "c"):
                    group.start_soon(tell, ref, partial(ledger.settle, ref, granted(f"token of {ref}")))
                    await anyio.wait_all_tasks_blocked()
            for ref in ("a", "nobody's"):
                assert told.get(ref, []).count(GrantError) == one_fails
            for ref in ("a", "b", "c", "planned"):
                row = await ledger.get(ref)
                assert row is not None
                assert row.token is not None
                assert row.token.token == f"token of {ref}"
                assert row in told[ref]
                assert [attempt.status for attempt in await ledger.attempts(ref)] == [GrantStatus.GRANTED]

    run(scenario)


def test_those_that_share_a_commit_are_done_in_one_go(
    run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    for jobs in ("_settle", "_claim"):
        monkeypatch.setattr(sqlite, jobs, partial(counted, rounds, getattr(sqlite, jobs)))

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for number in range(50):
                    group.start_soon(ledger.claim, request(str(number)))
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for number in range(50):
                    group.start_soon(ledger.settle, str(number), granted("tok"))
                    group.start_soon(ledger.claim, request(str(50 + number)))
            assert rounds == [0, 0, 50, 50, 50]  # the first at opening
            found = await ledger.count()
            assert found == {GrantStatus.GRANTED: 50, GrantStatus.SENDING: 50}

    run(scenario)


def test_a_group_takes_few_statements_however_many_rows_it_has(run: Run, quick_path: Path) -> None:
    executed: list[str] = []

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for number in range(30):
                    group.start_soon(ledger.claim, request(str(number)))
            await ledger._storage.read(lambda connection: connection.set_trace_callback(executed.append))
            async with anyio.create_task_group() as group, busy(ledger._storage):
                for number in range(30):
                    group.start_soon(ledger.settle, str(number), granted("tok"))
                    group.start_soon(ledger.claim, request(str(30 + number)))
            await ledger._storage.read(lambda connection: connection.set_trace_callback(None))

    run(scenario)
    of_group = executed[executed.index("BEGIN IMMEDIATE") :]
    of_group = of_group[: of_group.index("COMMIT") + 1]
    assert [one.split()[0] for one in of_group if "generation" not in one] == [
        *("BEGIN", "INSERT", "UPDATE", "INSERT", "INSERT", "COMMIT"),
    ]


def test_an_opening_that_fails_half_way_lets_go_of_the_file(run: Run, quick_path: Path) -> None:
    def no_time() -> datetime:
        msg = "what is time?"
        raise ValueError(msg)

    async def scenario() -> None:
        with pytest.raises(ValueError, match="what is time"):
            await SqliteLedger(quick_path / "grants.db", clock=no_time).open()
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            assert ledger.is_open

    run(scenario)


def test_its_repr_says_where_it_is_and_no_more(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        ledger = SqliteLedger(quick_path / "grants.db")
        assert repr(ledger) == f"<SqliteLedger at {quick_path / 'grants.db'}, not open>"
        async with ledger:
            assert repr(ledger).endswith("open>")

    run(scenario)


def test_a_page_is_no_longer_than_others_can_wait(run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[int] = []
    page = statements.page

    def counted(*arguments: Any, **named: Any) -> Any:
        found = page(*arguments, **named)
        pages.append(len(found[0]))
        return found

    monkeypatch.setattr(statements, "_PAGE", 10)
    monkeypatch.setattr(statements, "_EXAMINED", 20)
    monkeypatch.setattr(SqliteLedger, "_dialect", evolve(statements.DIALECT, page=counted))

    async def scenario() -> None:
        async with SqliteLedger(quick_path / "grants.db") as ledger:
            async with anyio.create_task_group() as group:
                for number in range(95):
                    group.start_soon(ledger.plan, request(str(number)))
            await ledger.claim(request("94"))
            pages.clear()
            assert len(await refs(ledger.grants())) == 95
            assert pages == [10] * 9 + [5]
            pages.clear()
            assert await refs(ledger.grants([GrantStatus.SENDING])) == ["94"]
            assert len(pages) == 5, "it looks at twenty rows a time, however few there are to tell"
            rows = ledger.grants()
            await anext(aiter(rows))
            await ledger.plan(request("new"))
            assert "new" not in await refs(rows)

    run(scenario)


async def test_a_row_that_an_older_version_planned_again_after_a_gateways_503_is_held(tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    believed = ServerError("the service turned us away with HTTP 503 (try again in 5 s)", code=503, status=503)
    old = SqliteStorage(path, Component("ledger", LEDGER.migrations[:1]), owner=True)
    await old.open()
    await old.aclose()
    with closing(sqlite3.connect(path)) as connection, connection:
        for ref, error in (("gateway", dump_error(believed)), ("never sent", None)):
            connection.execute(
                "INSERT INTO grants (ref, plan_id, note, status, attempts, error, updated_at)"
                " VALUES (?, 1, '', 'planned', 1, ?, 0)",
                (ref, error),
            )
    async with SqliteLedger(path) as ledger:
        rows = [await ledger.get(ref) for ref in ("gateway", "never sent")]
    assert [row and row.status for row in rows] == [GrantStatus.UNKNOWN, GrantStatus.PLANNED]


async def test_rows_of_an_older_version_learn_when_they_were_granted_from_their_records(tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    old = SqliteStorage(path, Component("ledger", LEDGER.migrations[:4]), owner=True)
    await old.open()
    await old.aclose()
    with closing(sqlite3.connect(path)) as connection, connection:
        for id_, ref in enumerate(("sent", "decided", "unrecorded", "planned"), 1):
            connection.execute(
                "INSERT INTO grants (id, ref, plan_id, note, status, attempts, updated_at)"
                " VALUES (?, ?, 1, '', ?, 1, 9)",
                (id_, ref, "planned" if ref == "planned" else "delivered"),
            )
        connection.execute("INSERT INTO attempt VALUES (1, 1, 0, 3, 'sending', ''), (1, 1, 1, 5, 'granted', '')")
        connection.execute("INSERT INTO attempt VALUES (2, 1, 0, 3, 'sending', ''), (2, 1, 1, 4, 'unknown', '')")
        connection.execute("INSERT INTO decision VALUES (1, 2, 'granted', 7, '')")
    async with SqliteLedger(path) as ledger:
        found = [(grant.ref, grant.granted_at) async for grant in ledger.grants()]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    sent, decided = (epoch + timedelta(microseconds=number) for number in (5, 7))
    assert found == [("sent", sent), ("decided", decided), ("unrecorded", None), ("planned", None)]


async def test_a_file_of_an_older_version_keeps_its_rows_and_takes_plans_of_projects(tmp_path: Path) -> None:
    path, uuid = tmp_path / "grants.db", "11111111-1111-4111-8111-111111111111"
    old = SqliteStorage(path, Component("ledger", LEDGER.migrations[:5]), owner=True)
    await old.open()
    await old.aclose()
    with closing(sqlite3.connect(path)) as connection, connection:
        for ref, plan_id in (("small", 1), ("large", 2**63 - 1)):
            connection.execute(
                "INSERT INTO grants (ref, plan_id, note, status, attempts, updated_at)"
                " VALUES (?, ?, '', 'planned', 0, 0)",
                (ref, plan_id),
            )
    with pytest.raises(UsageError, match="older ledger"):
        await SqliteLedger(path, owner=False).open()
    async with SqliteLedger(path) as ledger:
        assert (await ledger.claim(GrantRequest("small", 1))).mine
        assert (await ledger.claim(GrantRequest("of a project", uuid, 42))).mine
        assert [(grant.ref, grant.plan_id) async for grant in ledger.grants()] == [
            ("small", 1),
            ("large", 2**63 - 1),
            ("of a project", uuid),
        ]
    with pytest.raises(UsageError, match="newer tgmembership-async"):
        await SqliteStorage(path, Component("ledger", LEDGER.migrations[:5]), owner=True).open()
