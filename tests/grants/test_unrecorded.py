"""An answer that was received is kept until the ledger has stored it, and its ref is not sent again."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, reply

from tgmembership_async import GrantError, GrantHeld, RefConflict, Session, StorageError
from tgmembership_async.grants import Grant, Granter, GrantStatus, MemoryLedger, Settlement, SqliteLedger, unrecorded

SECRET = "t0ken-of-a-customer"
GRANTED = reply(f'{{"ok": true, "code": 200, "result": "{SECRET}"}}')
FULL = OSError(28, "No space left on device")


class Full(MemoryLedger):
    """A ledger whose disk accepts intents and no answers, until the test ends that."""

    def __init__(self, failure: Exception = FULL) -> None:
        super().__init__()
        self.failure: Exception | None = failure
        self.settled: list[str] = []
        self.offered = 0

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        self.offered += 1
        if self.failure is not None:
            raise self.failure
        self.settled.append(ref)
        return await super().settle(ref, settlement)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "_CALLERS_WAIT", 0.01)
    monkeypatch.setattr(unrecorded, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(unrecorded, "_LONGEST_PAUSE", 0.01)


@asynccontextmanager
async def granting(
    *steps: Any, ledger: Any, recording_timeout: float = 5
) -> AsyncIterator[tuple[Granter, StubTransport]]:
    transport = StubTransport(*steps)
    tg = Session(1, CANARY_KEY, transport=transport)
    async with Granter(tg, ledger, recording_timeout=recording_timeout) as granter:
        yield granter, transport


def on(backend: str, scenario: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(30):
            await scenario()

    anyio.run(bounded, backend=backend)


async def held(granter: Granter, ref: str) -> GrantHeld:
    with pytest.raises(GrantHeld, match="could not record it") as raised:
        await granter.grant(ref, plan_id=1, member_id=42)
    assert SECRET not in str(raised.value)
    return raised.value


async def stored(granter: Granter, ref: str) -> Grant:
    """Call `grant` until the answer is stored."""
    while True:
        try:
            return await granter.grant(ref, plan_id=1, member_id=42)
        except GrantHeld:
            await anyio.sleep(0.001)


def test_answers_are_stored_in_order_as_soon_as_the_ledger_takes_them(backend: str) -> None:
    async def scenario() -> None:
        ledger = Full()
        async with granting(GRANTED, ledger=ledger) as (granter, transport):
            for ref in "abc":
                error = await held(granter, ref)
                assert (error.grant.status, error.grant.token.token) == (GrantStatus.GRANTED, SECRET)
            assert "No space left" in str(error)
            assert ledger.offered > 3, "it is offered again and again"
            ledger.failure = None
            with anyio.fail_after(5):
                while len(ledger.settled) < 3:  # noqa: ASYNC110 - a task in the background
                    await anyio.sleep(0.001)
            assert ledger.settled == ["a", "b", "c"]
            for ref in "abc":
                row = await granter.grant(ref, plan_id=1, member_id=42)
                assert (row.token and row.token.token) == SECRET
            assert len(transport.requests) == 3

    on(backend, scenario)


def test_while_it_is_owed_nothing_else_is_done_with_its_ref(backend: str) -> None:
    async def scenario() -> None:
        ledger = Full()
        async with granting(GRANTED, ledger=ledger) as (granter, transport):
            await held(granter, "a")
            await held(granter, "a")
            with pytest.raises(RefConflict):
                await granter.grant("a", plan_id=2)
            with pytest.raises(GrantError, match="its outcome is known"):
                await granter.resolve("a", "retry")
            assert len(transport.requests) == 1
            ledger.failure = None
            assert (await stored(granter, "a")).status is GrantStatus.GRANTED
            assert len(transport.requests) == 1

    on(backend, scenario)


def test_closing_waits_until_all_is_stored(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        ledger = Full()
        async with anyio.create_task_group() as group:
            async with granting(GRANTED, ledger=ledger) as (granter, _):
                await held(granter, "a")

                async def mend() -> None:
                    await anyio.sleep(0.05)
                    ledger.failure = None

                group.start_soon(mend)
            assert ledger.settled == ["a"]

    with caplog.at_level(logging.INFO):
        on(backend, scenario)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert SECRET not in caplog.text


def test_closing_says_what_it_could_not_store_and_shows_no_token(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ledger = Full()
        async with granting(GRANTED, ledger=ledger, recording_timeout=0.02) as (granter, _):
            for ref in ("order-1", "order-2"):
                await held(granter, ref)
        offered = ledger.offered
        await anyio.sleep(0.03)
        assert ledger.offered == offered, "nothing goes on after closing"
        async with granting(GRANTED, ledger=ledger) as (granter, transport):
            with pytest.raises(GrantHeld, match="may or may not"):
                await granter.grant("order-1", plan_id=1, member_id=42)
            assert transport.requests == []

    on(backend, scenario)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "2 answers" in record.getMessage()
    assert "order-1, order-2" in record.getMessage()
    assert SECRET not in caplog.text


def test_one_that_can_never_be_stored_does_not_keep_the_others(backend: str) -> None:
    class Picky(Full):
        async def settle(self, ref: str, settlement: Settlement) -> Grant:
            if ref == "odd":
                self.offered += 1
                raise ValueError
            return await super().settle(ref, settlement)

    async def scenario() -> None:
        ledger = Picky()
        async with granting(GRANTED, ledger=ledger, recording_timeout=0.1) as (granter, _):
            await held(granter, "odd")
            await held(granter, "b")
            ledger.failure = None
        assert ledger.settled == ["b"]

    on(backend, scenario)


def test_an_unknown_outcome_is_owed_as_well(backend: str) -> None:
    async def scenario() -> None:
        ledger = Full(StorageError("the database is away"))
        async with granting(lost(), ledger=ledger) as (granter, _):
            assert "the database is away" in str(await held(granter, "a"))
            ledger.failure = None
        assert ledger._rows["a"].status is GrantStatus.UNKNOWN

    on(backend, scenario)


def test_a_full_disk_with_sqlite(backend: str, quick_path: Path) -> None:
    async def limit(ledger: SqliteLedger, pages: int) -> None:
        await ledger._storage.write(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())

    async def scenario() -> None:
        path = quick_path / f"grants-{backend}.db"
        ledger = SqliteLedger(path)
        big = reply(f'{{"ok": true, "code": 200, "result": "{SECRET}", "more": "{"x" * 50}"}}')

        async def fill_the_disk(_request: Any) -> Any:
            await limit(ledger, 1)
            return reply(f'{{"ok": true, "code": 200, "result": "{SECRET * 2_000}"}}')

        async with granting(fill_the_disk, big, ledger=ledger) as (granter, transport):
            assert "disk is full" in str(await held_with(granter, "a"))
            while True:
                with suppress(StorageError):  # it may share a transaction with what does not fit
                    await limit(ledger, 1_000_000)
                    break
            row = await stored(granter, "a")
            assert (row.token and row.token.token) == SECRET * 2_000
            assert len(transport.requests) == 1

    async def held_with(granter: Granter, ref: str) -> GrantHeld:
        with pytest.raises(GrantHeld) as raised:
            await granter.grant(ref, plan_id=1, member_id=42)
        return raised.value

    on(backend, scenario)


def test_a_file_that_another_process_keeps_locked(
    backend: str, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgmembership_async.storage.sqlite.schema._OWNER_WAITS", 0.01)

    async def scenario() -> None:
        path = quick_path / f"locked-{backend}.db"
        other = sqlite3.connect(path, isolation_level=None)

        async def lock(_request: Any) -> Any:
            other.execute("BEGIN IMMEDIATE")
            return GRANTED

        try:
            async with granting(lock, GRANTED, ledger=SqliteLedger(path)) as (granter, transport):
                await held(granter, "a")
                other.execute("ROLLBACK")
                assert (await stored(granter, "a")).status is GrantStatus.GRANTED
                assert len(transport.requests) == 1
        finally:
            other.close()

    on(backend, scenario)


@pytest.mark.parametrize("wrong", [0, -1, "5", True, float("inf")])
def test_the_time_that_closing_may_take_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="recording_timeout"):
        Granter(Session(1, CANARY_KEY), MemoryLedger(), recording_timeout=wrong)
