"""Measure calls on loopback, compared to plain HTTP libraries and other SDKs in interleaved rounds.

    python benchmarks/call.py [--quick] [--json FILE]

The figures are the CPU time of this process per call and the calls per second, as medians of the rounds. The server is
a separate process. `nox -s bench` installs the peers first.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from aims import AFTER_A_BURST, EITHER_WIDTH, MANY, ONE, SLOW, TARGETS, THOUSAND, WIDE, reached
from attrs import frozen
from compare import Candidate, Figure, interleave, measure, rows
from contestants import AIOHTTP, HTTPX, HTTPX_SAME, OURS_AIOHTTP, OURS_HTTPX, SDKS, Contestant
from server import server
from tables import publish

LIBRARIES = ("httpx", "aiohttp", "openai", "stripe", "githubkit", "aiogram")
BARE = (OURS_HTTPX, HTTPX, HTTPX_SAME, OURS_AIOHTTP, AIOHTTP)


@frozen
class Case:
    """One case: tasks, calls and connections, the delay of the server in seconds, and the contestants."""

    name: str
    tasks: int
    calls: int
    connections: int
    delay: float
    contestants: Sequence[Contestant]
    rounds: int = 5


CASES = (
    Case(ONE, 1, 300, 8, 0.0, (*BARE, *SDKS)),
    Case(MANY, 64, 640, 8, 0.0, (*BARE, *SDKS)),
    Case(THOUSAND, 1_000, 1_000, 32, 0.0, (OURS_HTTPX, HTTPX, HTTPX_SAME), 2),
    Case(SLOW, 64, 640, 64, 0.02, BARE, 3),
    # With its limits raised to 256, plain httpx takes 95 ms per call: minutes for one round. With fewer than five calls
    # per task, the queue in its pool, which causes that cost, would be short for half of the time.
    Case(WIDE, 256, 1_280, 256, 0.02, (OURS_HTTPX, HTTPX, OURS_AIOHTTP, AIOHTTP), 3),
)
BURST = 256


async def compare(case: Case, *, quick: bool) -> dict[str, list[Figure]]:
    """Measure all contestants of a case, each on its own open connections."""
    with server(case.delay) as url:
        async with AsyncExitStack() as stack:
            present = [contestant for contestant in case.contestants if contestant.present]
            candidates = [
                Candidate(one.name, await stack.enter_async_context(one.enter(url, case.connections)), case.tasks)
                for one in present
            ]
            calls, rounds = (max(case.calls // 4, case.tasks), 2) if quick else (case.calls, case.rounds)
            return await interleave(candidates, rounds=rounds, calls=calls)


async def after_a_burst(rounds: int) -> dict[str, list[Figure]]:
    """Measure sequential calls of a fresh Session and of one after a burst, and of httpx after one."""
    with server(0.0) as url:
        async with AsyncExitStack() as stack:
            fresh, burst = [
                await stack.enter_async_context(OURS_HTTPX.enter(url, BURST)) for _ in ("fresh", "after a burst")
            ]
            httpx = await stack.enter_async_context(HTTPX_SAME.enter(url, BURST))
            await measure(burst, calls=4 * BURST, tasks=BURST)
            await measure(httpx, calls=BURST, tasks=BURST)
            candidates = [
                Candidate("fresh Session on httpx", fresh),
                Candidate(f"Session on httpx after {BURST} at once", burst),
                Candidate(f"httpx, same limits, after {BURST} at once", httpx),
            ]
            return await interleave(candidates, rounds=rounds, calls=40)


async def own_cost(rounds: int) -> dict[str, list[Figure]]:
    """Measure a Session with 64 and with 256 tasks, interleaved: the cases above run minutes apart."""
    with server(0.02) as url:
        async with AsyncExitStack() as stack:
            candidates = [
                Candidate(f"{OURS_HTTPX.name}, {n} tasks", await stack.enter_async_context(OURS_HTTPX.enter(url, n)), n)
                for n in (64, 256)
            ]
            return await interleave(candidates, rounds=rounds, calls=2_560)


def main() -> None:
    """Print a table for each case, and the targets; with `--json`, also write all figures to a file."""
    quick = "--quick" in sys.argv
    runs = [(case.name, partial(compare, case, quick=quick)) for case in CASES]
    runs += [
        (EITHER_WIDTH, partial(own_cost, 2 if quick else 6)),
        (AFTER_A_BURST, partial(after_a_burst, 2 if quick else 5)),
    ]
    cases = {name: rows(asyncio.run(run())) for name, run in runs}
    publish({**cases, TARGETS: reached(cases)}, *LIBRARIES)


if __name__ == "__main__":
    main()
