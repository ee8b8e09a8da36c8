"""Compare candidates in one run: interleaved rounds, medians, and ratios to the first candidate."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import frozen
from tables import Row

Call = Callable[[], Awaitable[object]]


@frozen
class Candidate:
    """A name, a coroutine function to call repeatedly, and the number of tasks that call it concurrently."""

    name: str
    call: Call
    tasks: int = 1


@frozen
class Figure:
    """The cost of one call in one round: CPU seconds of this process, and wall-clock seconds."""

    cpu: float
    wall: float


async def measure(call: Call, *, calls: int, tasks: int = 1) -> Figure:
    """Make `calls` calls, shared between `tasks` concurrent workers."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return Figure((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)


async def interleave(candidates: Sequence[Candidate], *, rounds: int, calls: int) -> dict[str, list[Figure]]:
    """Measure all candidates in interleaved rounds, after one warm-up round that is discarded."""
    figures: dict[str, list[Figure]] = {candidate.name: [] for candidate in candidates}
    for turn in range(rounds + 1):
        if turn == 1:
            gc.collect()
            gc.freeze()  # exclude objects loaded so far from later garbage collections
        for candidate in candidates:
            figure = await measure(candidate.call, calls=calls, tasks=candidate.tasks)
            if turn:
                figures[candidate.name].append(figure)
    return figures


def cpu(figures: Sequence[Figure]) -> float:
    """Return the median CPU per call in microseconds."""
    return 1e6 * statistics.median(figure.cpu for figure in figures)


def rate(figures: Sequence[Figure]) -> float:
    """Return the median of calls per second."""
    return statistics.median(1 / figure.wall for figure in figures)


def rows(figures: Mapping[str, Sequence[Figure]]) -> list[Row]:
    """Return CPU and rate of each candidate, and the ratio of its CPU to the first one's."""
    first = cpu(next(iter(figures.values())))
    return [
        {
            "who": name,
            "CPU µs per call": round(cpu(taken), 1),
            "ratio": round(cpu(taken) / first, 3),
            "calls/s": round(rate(taken)),
            "spread µs": round(1e6 * statistics.pstdev(figure.cpu for figure in taken), 1),
        }
        for name, taken in figures.items()
    ]
