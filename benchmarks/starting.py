"""Measure the import of the package and the creation of a Session, compared to httpx.

    python benchmarks/starting.py [--quick] [--json FILE]

Imports run in fresh processes, interleaved; the figures are medians of CPU time, and the memory that Python retains. A
Session creates its TLS context, which is most of a client's cost, at its first encrypted call and once for all lanes.
Therefore another figure includes one call to a port that refuses it, and closing.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
from tables import Row, publish

from tgmembership_async import NotSent, RetryPolicy, Session

KEY = "0123456789abcdefghij0123456789abcdefghij"
STATEMENTS = {
    "httpx, attrs, cattrs and anyio": "import httpx, attrs, cattrs, anyio",
    "tgmembership_async": "import tgmembership_async",
    "tgmembership_async, and a Session on httpx": (
        f"import tgmembership_async; tgmembership_async.Session(1, {KEY!r}, proxy=None)"
    ),
}
MEASURED = """
import time
start = time.process_time()
{0}
print(time.process_time() - start)
"""
KEPT = """
import tracemalloc
tracemalloc.start()
{0}
print(tracemalloc.get_traced_memory()[0])
"""


def output_of(script: str) -> float:
    """Return the number that a script prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def last_of(count: int, build: Callable[[], object]) -> float:
    """Return the seconds that the last of `count` builds takes."""
    for _ in range(count):
        start = time.perf_counter()
        build()
    return time.perf_counter() - start


async def life_of_a_client(url: str) -> None:
    """Create an httpx client, make one refused call, and close it."""
    async with httpx.AsyncClient() as client:
        with suppress(httpx.ConnectError):
            await client.get(url)


async def life_of_a_session(url: str) -> None:
    """Create a Session, make one refused call, and close it."""
    async with Session(1, KEY, base_url=url, proxy=None, retry=RetryPolicy(attempts=1)) as tg:
        with suppress(NotSent):
            await tg.get_plans()


def table(unit: str, figures: dict[str, list[float]]) -> list[Row]:
    """Return medians and their ratio to the first."""
    medians = {name: statistics.median(taken) for name, taken in figures.items()}
    first = next(iter(medians.values()))
    return [{"what": name, unit: round(one, 1), "ratio": round(one / first, 3)} for name, one in medians.items()]


def main() -> None:
    """Print the tables."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # only one of the two reads the proxies
    rounds = 3 if "--quick" in sys.argv else 15
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    memory = {name: [output_of(KEPT.format(statement)) / 2**20] for name, statement in STATEMENTS.items()}
    building: dict[str, list[float]] = {"httpx.AsyncClient()": [], "Session(...)": []}
    lives: dict[str, list[float]] = {name: [] for name in building}
    with socket.socket() as refused, asyncio.Runner() as runner:
        refused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{refused.getsockname()[1]}"
        for _ in range(rounds):
            for name, statement in STATEMENTS.items():
                times[name].append(1_000 * output_of(MEASURED.format(statement)))
            building["httpx.AsyncClient()"].append(1e6 * last_of(20, httpx.AsyncClient))
            building["Session(...)"].append(1e6 * last_of(20, lambda: Session(1, KEY)))
            lives["httpx.AsyncClient()"].append(1e3 * last_of(5, lambda: runner.run(life_of_a_client(url))))
            lives["Session(...)"].append(1e3 * last_of(5, lambda: runner.run(life_of_a_session(url))))
    tables = {
        "time of an import": table("CPU ms", times),
        "memory of an import": table("MB", memory),
        "build one more": table("µs", building),
        "build one more, call once with TLS, and close it": table("ms", lives),
    }
    publish(tables, "httpx")


if __name__ == "__main__":
    main()
