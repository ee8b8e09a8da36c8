"""A run over a SqliteLedger: answers are recorded while its workers go on, each of them, whatever fails."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, reply

from tgmembership_async import GrantHeld, Request, Response, Session, StorageError
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, SqliteLedger
from tgmembership_async.grants.model import Settlement
from tgmembership_async.grants.provisioning import Run, Summary
from tgmembership_async.storage.sqlite import group_commit, writer

GRANTED = reply('{"ok": true, "code": 200, "result": "tok"}')
Done = Callable[[Grant | None], object]


def requests(count: int) -> list[GrantRequest]:
    return [GrantRequest(f"r{n}", 1, n + 1) for n in range(count)]


def granter(transport: Any, ledger: SqliteLedger) -> Granter:
    return Granter(Session(1, CANARY_KEY, transport=transport), ledger, recording_timeout=5)


def on(backend: str, scenario: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(15):
            await scenario()

    anyio.run(bounded, backend=backend)


def statuses(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT status, count(*) FROM grants GROUP BY status").fetchall())


class Committing:
    """Keeps the writer from starting a group while `held`, and reads the file after each group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, int]] = []
        self._goes_on = threading.Event()
        self._goes_on.set()

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self._goes_on.wait(10)
        group_commit.carry_out(*arguments, **options)
        if self.path.exists():
            self.seen.append(statuses(self.path))

    @contextmanager
    def held(self) -> Iterator[None]:
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()


@pytest.fixture
def ledger(quick_path: Path) -> SqliteLedger:
    return SqliteLedger(quick_path / "grants.db")


@pytest.fixture
def commits(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> Committing:
    committing = Committing(quick_path / "grants.db")
    monkeypatch.setattr(writer, "carry_out", committing)
    return committing


def test_no_more_rows_are_sending_than_there_are_workers(
    ledger: SqliteLedger, commits: Committing, backend: str
) -> None:
    async def scenario() -> None:
        async def soon(_request: Request) -> Response:
            await anyio.lowlevel.checkpoint()
            return GRANTED

        async with granter(StubTransport(soon), ledger) as g:
            commits.seen.clear()
            assert await g.provision(requests(60), concurrency=7) == Summary(granted=60)
            assert max(seen.get("sending", 0) for seen in commits.seen) == 7

    on(backend, scenario)


def test_a_worker_claims_the_next_row_before_its_answer_is_recorded(
    ledger: SqliteLedger, commits: Committing, backend: str
) -> None:
    async def scenario() -> None:
        transport = StubTransport(GRANTED)
        async with granter(transport, ledger) as g:
            commits.seen.clear()
            assert await g.provision(requests(5), concurrency=1) == Summary(granted=5)
        assert {"granted": 1, "sending": 1} in commits.seen, "the answer and the next claim share a commit"

    on(backend, scenario)


def test_a_cancelled_run_waits_until_its_answers_are_recorded(
    ledger: SqliteLedger, commits: Committing, backend: str
) -> None:
    async def scenario() -> None:
        answered = 0

        async def answer(_request: Request) -> Response:
            nonlocal answered
            answered += 1
            return GRANTED

        async with granter(StubTransport(answer), ledger) as g:
            async with anyio.create_task_group() as group:
                group.start_soon(g.provision(requests(100), concurrency=4))
                while answered < 8:
                    await anyio.lowlevel.checkpoint()
                with commits.held():
                    group.cancel_scope.cancel()
            found = statuses(ledger._storage.path)
            assert found["granted"] == answered
            assert "sending" not in found

    on(backend, scenario)


class Failing(SqliteLedger):
    """Does not settle later: `way` tells how."""

    way = "told"

    def settle_later(self, ref: str, settlement: Settlement, done: Done) -> None:  # noqa: ARG002 - the ledger's
        if self.way == "raised":
            msg = "the queue is full"
            raise StorageError(msg)

        def fail(connection: sqlite3.Connection, _: Sequence[None]) -> list[Any]:
            connection.execute("UPDATE grants SET status = 'granted'")
            raise sqlite3.OperationalError(settlement.status)

        self._storage.write_later(fail, None, done)


@pytest.mark.parametrize("way", ["told", "raised"])
def test_what_is_not_settled_later_is_settled_by_itself(quick_path: Path, way: str, backend: str) -> None:
    async def scenario() -> None:
        ledger = Failing(quick_path / "grants.db")
        ledger.way = way
        transport = StubTransport(GRANTED)
        async with granter(transport, ledger) as g:
            async with g.provision(requests(20), concurrency=3) as run:
                rows = [grant async for grant in run]
            assert run.summary == Summary(granted=20)
            assert await ledger.get_many([row.ref for row in rows]) == {row.ref: row for row in rows}
        assert len(transport.requests) == 20

    on(backend, scenario)


async def read(run: Run, rows: list[Grant]) -> None:
    async with run:
        async for row in run:
            rows.append(row)  # noqa: PERF401 - those before an error, too


class Broken(Failing):
    """Records no answer at all."""

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        msg = f"{ref} is not {settlement.status}: the disk is full"
        raise StorageError(msg)


def test_an_answer_that_is_not_recorded_ends_the_run_and_is_told(
    quick_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgmembership_async.grants.unrecorded._CALLERS_WAIT", 0.05)

    async def scenario() -> None:
        ledger = Broken(quick_path / "grants.db")
        g = Granter(Session(1, CANARY_KEY, transport=StubTransport(GRANTED)), ledger, recording_timeout=0.05)
        rows: list[Grant] = []
        async with g:
            run = g.provision(requests(20), concurrency=1)
            with pytest.raises(GrantHeld, match="could not record it"):
                await read(run, rows)
        assert rows, "the answers are known"
        assert all(row.status is GrantStatus.GRANTED for row in rows)

    on(backend, scenario)


def test_a_ref_that_comes_again_while_its_answer_is_recorded_waits_for_that(ledger: SqliteLedger, backend: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(GRANTED)
        async with granter(transport, ledger) as g:
            assert await g.provision(requests(1) * 5, concurrency=2) == Summary(granted=1, duplicates=4)
        assert len(transport.requests) == 1

    on(backend, scenario)
