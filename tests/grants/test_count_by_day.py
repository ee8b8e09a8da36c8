"""Rows are counted by the UTC day of the grant, in parts, and for one bot of several, in every kind of ledger."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from own_schema import own_schema

from tgmembership_async.grants import (
    DayCount,
    GrantRequest,
    GrantStatus,
    MemoryLedger,
    PostgresLedger,
    Settlement,
    SqliteLedger,
    database_ledger,
)
from tgmembership_async.grants.bot_ledger import BotLedger, key

Kept = MemoryLedger | SqliteLedger | PostgresLedger
GRANTED, DELIVERED, PLANNED = GrantStatus.GRANTED, GrantStatus.DELIVERED, GrantStatus.PLANNED
LAST_MOMENT = datetime(2026, 11, 20, 23, 59, 59, 999_999, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = LAST_MOMENT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Clock], Kept]]:
    with ExitStack() as stack:
        url = stack.enter_context(own_schema()) if request.param == "postgres" else ""
        kinds: dict[str, Callable[[Clock], Kept]] = {
            "memory": lambda clock: MemoryLedger(clock=clock),
            "sqlite": lambda clock: SqliteLedger(tmp_path / "grants.db", clock=clock),
            "postgres": lambda clock: PostgresLedger(url, clock=clock),
        }
        yield kinds[request.param]


async def fill(ledger: Kept, clock: Clock, prefix: str = "") -> None:
    """Grant at the end of a day, deliver two days later, and plan a row of another plan then."""
    clock.now = LAST_MOMENT
    for number in range(3):
        await ledger.claim(GrantRequest(f"{prefix}r{number}", 1))
        await ledger.settle(f"{prefix}r{number}", Settlement(GRANTED))
        clock.now += timedelta(microseconds=1)
    clock.now += timedelta(days=2)
    await ledger.mark_delivered(f"{prefix}r0")
    await ledger.plan(GrantRequest(f"{prefix}r3", 2))


COUNTS = [
    DayCount(date(2026, 11, 20), 1, DELIVERED, 1),
    DayCount(date(2026, 11, 21), 1, GRANTED, 2),
    DayCount(date(2026, 11, 23), 2, PLANNED, 1),
]


def test_a_delivered_row_counts_on_the_day_of_its_grant(
    make: Callable[[Clock], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_ledger, "_COUNTED_AT_ONCE", 2)

    async def main() -> None:
        clock, told = Clock(), list[int]()
        async with make(clock) as ledger:
            await fill(ledger, clock)
            assert await ledger.count_by_day(counted=told.append) == COUNTS
        assert told == ([4] if isinstance(ledger, MemoryLedger) else [2, 4]), "in parts, each counted once"

    anyio.run(main)


def test_a_bot_counts_its_own_rows(make: Callable[[Clock], Kept]) -> None:
    async def main() -> None:
        clock = Clock()
        async with make(clock) as ledger:
            await fill(ledger, clock, key(7, ""))
            await fill(ledger, clock, key(77, ""))
            assert await BotLedger(ledger, 7).count_by_day() == COUNTS
            assert await BotLedger(ledger, 8).count_by_day() == []
            assert sum(row.count for row in await ledger.count_by_day()) == 8

    anyio.run(main)
