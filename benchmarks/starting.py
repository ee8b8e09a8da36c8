"""What it costs to begin: importing the package, and building a Session, next to what they stand on.

    python benchmarks/starting.py [--quick]

Imports run in processes of their own, in turns; the figures are medians of CPU time, and what Python keeps of memory.
A Session makes its TLS context, most of what a client costs, with its first call that is encrypted; once for all lanes.
So each also makes one call, to a port that refuses it, and is closed.
"""

import asyncio
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import httpx

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


def told(script: str) -> float:
    """Return the number that a script prints in a fresh process."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def last_of(row: int, build: Callable[[], object]) -> float:
    """Return the seconds that the last of so many takes."""
    for _ in range(row):
        start = time.perf_counter()
        build()
    return time.perf_counter() - start


async def life_of_a_client(url: str) -> None:
    """Make one, and call in vain."""
    async with httpx.AsyncClient() as client:
        with suppress(httpx.ConnectError):
            await client.get(url)


async def life_of_a_session(url: str) -> None:
    """Do the same."""
    async with Session(1, KEY, base_url=url, proxy=None, retry=RetryPolicy(attempts=1)) as tg:
        with suppress(NotSent):
            await tg.get_plans()


def table(title: str, unit: str, figures: dict[str, list[float]]) -> None:
    """Print medians and their ratio to the first."""
    print(f"\n| {title} | {unit} | ratio |\n| --- | ---: | ---: |")
    first = statistics.median(next(iter(figures.values())))
    for name, taken in figures.items():
        median = statistics.median(taken)
        print(f"| {name} | {median:,.1f} | {median / first:.2f} |")


def main() -> None:
    """Print the tables."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # both look for the machine's authorities there, and only one for its proxies
    rounds = 3 if "--quick" in sys.argv else 15
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    memory = {name: [told(KEPT.format(statement)) / 2**20] for name, statement in STATEMENTS.items()}
    building: dict[str, list[float]] = {"httpx.AsyncClient()": [], "Session(...)": []}
    lives: dict[str, list[float]] = {name: [] for name in building}
    with socket.socket() as refused, asyncio.Runner() as runner:
        refused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{refused.getsockname()[1]}"
        for _ in range(rounds):
            for name, statement in STATEMENTS.items():
                times[name].append(1_000 * told(MEASURED.format(statement)))
            building["httpx.AsyncClient()"].append(1e6 * last_of(20, httpx.AsyncClient))
            building["Session(...)"].append(1e6 * last_of(20, lambda: Session(1, KEY)))
            lives["httpx.AsyncClient()"].append(1e3 * last_of(5, lambda: runner.run(life_of_a_client(url))))
            lives["Session(...)"].append(1e3 * last_of(5, lambda: runner.run(life_of_a_session(url))))
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}")
    table("import", "CPU ms", times)
    table("import", "MB", memory)
    table("build one more", "µs", building)
    table("build one more, call once with TLS, and close it", "ms", lives)


if __name__ == "__main__":
    main()
