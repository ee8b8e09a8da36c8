"""Measure `Granter.reconcile`, compared to reads of the same members without it.

    python benchmarks/reconcile.py [--quick] [--json FILE]

The rows of a SqliteLedger are unknown, one for each member; the server, in a separate process, answers after 5 ms with
a subscription to plan 1. It settles rows of that plan, and proves nothing about rows of another. Reads are
`get_subscribers` of the same members on the same kind of Session. Eight requests are in flight, in interleaved rounds.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from server import server
from tables import Row, publish

from tgmembership_async import Session
from tgmembership_async.errors import OutcomeUnknown
from tgmembership_async.grants import Granter, GrantRequest, GrantStatus, Settlement, SqliteLedger

KEY = "0123456789abcdefghij0123456789abcdefghij"
CONCURRENCY = 8
DELAY = 0.005
ROUNDS = 4
LOST = Settlement(GrantStatus.UNKNOWN, error=OutcomeUnknown("lost", method="addMember", maybe_applied=True))
OURS = "reconcile, nothing proved", "reconcile, every row settled"
READS = "get_subscribers of the same members"
Measure = Callable[[str, int], Coroutine[Any, Any, "Figure"]]


@frozen
class Figure:
    """One round: the number of members, and the wall-clock and CPU seconds of all."""

    members: int
    wall: float
    cpu: float


def session(url: str) -> Session:
    """Return the session of a candidate."""
    return Session(1, KEY, base_url=url, max_connections=CONCURRENCY, proxy=None)


async def hold(ledger: SqliteLedger, members: int, plan_id: int) -> None:
    """Fill a ledger with unknown rows."""
    left = iter(range(members))

    async def work() -> None:
        for number in left:
            await ledger.claim(GrantRequest(f"order-{number}", plan_id, number + 1))
            await ledger.settle(f"order-{number}", LOST)

    await asyncio.gather(*(work() for _ in range(64)))


async def reconcile(url: str, members: int, *, plan_id: int) -> Figure:
    """Reconcile a new ledger; the server tells of a subscription to plan 1."""
    with tempfile.TemporaryDirectory() as folder:
        async with SqliteLedger(Path(folder, "grants.db")) as ledger, Granter(session(url), ledger) as granter:
            await hold(ledger, members, plan_id)
            wall, cpu = time.perf_counter(), time.process_time()
            findings = await granter.reconcile(concurrency=CONCURRENCY)
            figure = Figure(members, time.perf_counter() - wall, time.process_time() - cpu)
    assert [finding.settled for finding in findings] == [plan_id == 1] * members, findings[0].why
    return figure


async def reads(url: str, members: int) -> Figure:
    """Ask about the same members."""
    left = iter(range(members))
    async with session(url) as tg:

        async def work() -> None:
            for number in left:
                await tg.get_subscribers(number + 1)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return Figure(members, time.perf_counter() - wall, time.process_time() - cpu)


def compare(members: int) -> list[Row]:
    """Return all figures, measured in interleaved rounds."""
    taken: dict[str, list[Figure]] = {name: [] for name in (READS, *OURS)}
    with server(DELAY) as url:
        candidates: dict[str, Measure] = {
            READS: reads,
            OURS[0]: partial(reconcile, plan_id=2),
            OURS[1]: partial(reconcile, plan_id=1),
        }
        # The first round, in which modules are loaded, is discarded.
        for count in (100, *[members // ROUNDS] * ROUNDS):
            for name, measure in candidates.items():
                taken[name].append(asyncio.run(measure(url, count)))
    first = sum(figure.wall for figure in taken[READS][1:])
    return [
        {
            "who": name,
            "seconds": round(sum(figure.wall for figure in figures[1:]), 2),
            "of the time of the reads": round(sum(figure.wall for figure in figures[1:]) / first, 2),
            "CPU µs per member": round(1e6 * sum(figure.cpu for figure in figures[1:]) / members),
        }
        for name, figures in taken.items()
    ]


def main() -> None:
    """Print the table."""
    members = 1_000 if "--quick" in sys.argv else 10_000
    publish({f"{members:,} held rows, {CONCURRENCY} in flight, {1e3 * DELAY:g} ms server": compare(members)}, "httpx")


if __name__ == "__main__":
    main()
