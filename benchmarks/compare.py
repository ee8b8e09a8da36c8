"""Candidates against each other in one run: interleaved rounds, medians, ratios to the first."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import frozen

Call = Callable[[], Awaitable[object]]


@frozen
class Candidate:
    """Something that can be called again and again, its name, and how many tasks call it at once."""

    name: str
    call: Call
    tasks: int = 1


@frozen
class Figure:
    """What one call took in one round: seconds of this process's CPU, and seconds on the wall."""

    cpu: float
    wall: float


async def measure(call: Call, *, calls: int, tasks: int = 1) -> Figure:
    """Make all calls, from workers that share them."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return Figure((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)


async def interleave(candidates: Sequence[Candidate], *, rounds: int, calls: int) -> dict[str, list[Figure]]:
    """Measure all in turns, after one round to warm up that does not count."""
    figures: dict[str, list[Figure]] = {candidate.name: [] for candidate in candidates}
    for turn in range(rounds + 1):
        if turn == 1:
            gc.collect()
            gc.freeze()  # what the others have loaded is not for each to search again and again
        for candidate in candidates:
            figure = await measure(candidate.call, calls=calls, tasks=candidate.tasks)
            if turn:
                figures[candidate.name].append(figure)
    return figures


def cpu(figures: Sequence[Figure]) -> float:
    """Return the median of microseconds of CPU per call."""
    return 1e6 * statistics.median(figure.cpu for figure in figures)


def rate(figures: Sequence[Figure]) -> float:
    """Return the median of calls per second."""
    return statistics.median(1 / figure.wall for figure in figures)


def print_table(figures: Mapping[str, Sequence[Figure]]) -> None:
    """Print CPU and rate of each candidate, and what it takes of the first one's CPU."""
    first = cpu(next(iter(figures.values())))
    print("| who | CPU µs per call | ratio | calls/s |")
    print("| --- | ---: | ---: | ---: |")
    for name, taken in figures.items():
        print(f"| {name} | {cpu(taken):,.1f} | {cpu(taken) / first:.2f} | {rate(taken):,.0f} |")
