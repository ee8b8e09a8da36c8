"""Measure the import of the package, the creation of a Session, and the memory of an idle bot, compared to httpx.

    python benchmarks/starting.py [--quick] [--json FILE]

Imports run in fresh processes, interleaved; the figures are medians of CPU time, and the memory that Python retains. A
Session creates its TLS context, which is most of a client's cost, at its first encrypted call and once for all lanes.
Therefore another figure includes one call to a port that refuses it, and closing.

The resident memory is that of fresh processes in which the named objects are open and nothing happens; aiogram is left
out if it is not installed.
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
from importlib.util import find_spec

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
IDLE = """
import asyncio, resource, sys, tempfile
from pathlib import Path

def resident():
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:  # the highest instead, in KiB, or on macOS in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

async def main(folder):
{0}
        await asyncio.sleep(0)
        print(resident())

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
"""
IDLE_BOTS = {
    "nothing but asyncio": """
    if True:
""",
    "httpx.AsyncClient": """
    import httpx
    async with httpx.AsyncClient(trust_env=False):
""",
    "aiogram: Bot and Dispatcher": f"""
    from aiogram import Bot, Dispatcher
    dispatcher = Dispatcher()
    async with Bot("1:{KEY}"):
""",
    "Session on httpx": f"""
    from tgmembership_async import Session
    async with Session(1, {KEY!r}, proxy=None):
""",
    "Session on httpx, Granter and Receiver, each with its file": f"""
    from tgmembership_async import Session
    from tgmembership_async.grants import Granter, SqliteLedger
    from tgmembership_async.webhooks import Receiver, SqliteInbox, Verifier
    session = Session(1, {KEY!r}, proxy=None)
    receiver = Receiver(Verifier({KEY!r}), SqliteInbox(folder / "inbox.db"))
    async with session, Granter(session, SqliteLedger(folder / "grants.db")), receiver:
""",
}


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
    bots = {name: code for name, code in IDLE_BOTS.items() if "aiogram" not in name or find_spec("aiogram")}
    idle = {name: [output_of(IDLE.format(code)) / 2**20 for _ in range(rounds)] for name, code in bots.items()}
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
        "resident memory of an idle bot": table("MiB", idle),
        "build one more": table("µs", building),
        "build one more, call once with TLS, and close it": table("ms", lives),
    }
    publish(tables, "httpx", "aiogram")


if __name__ == "__main__":
    main()
