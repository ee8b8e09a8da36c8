"""What a bulk run costs: `Granter.provision` with a SqliteLedger against `asyncio.gather` over bare httpx, in one run.

    python benchmarks/provision.py [--quick]

64 at a time, in interleaved rounds, against a server that takes 5 ms and is a process of its own. Bare httpx has its
default limits, a semaphore of 64, `.json()`, and no ledger: whoever kills it has lost the evening. Then the memory of
runs of two lengths, on a transport that answers at once, so that only the run and its ledger count.
"""

import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import httpx
from attrs import frozen
from server import server

from tgmembership_async import Headers, Request, Response, Session
from tgmembership_async.grants import Granter, GrantRequest, SqliteLedger

KEY = "0123456789abcdefghij0123456789abcdefghij"
AT_A_TIME = 64
DELAY = 0.005
ROUNDS = 4
AIMS = {"httpx": 3.5, "aiohttp": 6.0}


@frozen
class Figure:
    """What one run took: wall and CPU seconds in all, for so many members."""

    members: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Return members per second."""
        return self.members / self.wall

    @property
    def cost(self) -> float:
        """Return CPU microseconds per member, the ledger's thread included."""
        return 1e6 * self.cpu / self.members


def total(rounds: list[Figure]) -> Figure:
    """Return all rounds as one."""
    return Figure(*(sum(getattr(one, name) for one in rounds) for name in ("members", "wall", "cpu")))


class Null:
    """A transport that grants at once and keeps nothing."""

    def __init__(self) -> None:
        body = {"ok": True, "code": 200, "result": "aE1pu1lJo7XBetF5gIRHYH7L"}
        self._answer = Response(200, Headers(()), json.dumps(body).encode())

    async def send(self, request: Request) -> Response:
        """Answer."""
        request.progress.begun = True
        await asyncio.sleep(0)
        return self._answer

    async def aclose(self) -> None:
        """Do nothing."""


def requests(members: int) -> Iterator[GrantRequest]:
    """Yield as many requests, one at a time."""
    return (GrantRequest(f"order-{number}", 1, number + 1) for number in range(members))


async def provision(session: Session, members: int) -> Figure:
    """Grant to so many members, with a fresh ledger."""
    with tempfile.TemporaryDirectory() as folder:
        async with session, SqliteLedger(Path(folder, "grants.db")) as ledger, Granter(session, ledger) as granter:
            wall, cpu = time.perf_counter(), time.process_time()
            async with granter.provision(requests(members), concurrency=AT_A_TIME) as run:
                async for _ in run:
                    pass
            figure = Figure(members, time.perf_counter() - wall, time.process_time() - cpu)
    assert run.summary.granted == members, run.summary
    return figure


async def gather(url: str, members: int) -> Figure:
    """Do it as one would without this package."""
    places = asyncio.Semaphore(AT_A_TIME)
    # Their default limits, but for a patience that lets the run finish at all.
    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:

        async def one(number: int) -> object:
            async with places:
                response = await client.post(f"{url}/bot1/{KEY}/addMember", json={"plan_id": 1, "member_id": number})
                return response.json()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(number + 1) for number in range(members)))
        return Figure(members, time.perf_counter() - wall, time.process_time() - cpu)


def compare(members: int) -> None:
    """Print all, measured in turns against the same server."""
    transports: tuple[Literal["httpx", "aiohttp"], ...] = ("httpx", "aiohttp") if find_spec("aiohttp") else ("httpx",)
    ours: dict[str, list[Figure]] = {name: [] for name in transports}
    theirs: list[Figure] = []
    with server(DELAY) as url:
        # The first round, in which all is loaded, does not count.
        for count in (4 * AT_A_TIME, *[members // ROUNDS] * ROUNDS):
            for name in transports:
                session = Session(1, KEY, base_url=url, max_connections=AT_A_TIME, proxy=None, transport=name)
                ours[name].append(asyncio.run(provision(session, count)))
            theirs.append(asyncio.run(gather(url, count)))
    their = total(theirs[1:])
    print(f"{members:,} members, {AT_A_TIME} at a time, {1e3 * DELAY:g} ms server\n")
    print("| | members/s | ratio | aim | CPU µs per member | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way, rounds in ours.items():
        our = total(rounds[1:])
        rates, costs = (
            f"{our.rate:,.0f} | {our.rate / their.rate:.1f} | {AIMS[way]:g}",
            f"{our.cost:,.0f} | {our.cost / their.cost:.2f}",
        )
        print(f"| provision with its ledger, on {way} | {rates} | {costs} |")
    print(f"| gather over bare httpx, no ledger | {their.rate:,.0f} | | | {their.cost:,.0f} | |\n", flush=True)


def peak() -> float:
    """Return the most memory that this process ever had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def run_to_remember(members: int) -> None:
    """Grant to so many members on the null transport, and print the peak of memory."""
    figure = asyncio.run(provision(Session(1, KEY, transport=Null(), max_connections=AT_A_TIME), members))
    print(json.dumps({"peak": peak(), "rate": figure.rate, "cost": figure.cost}))


def remember(*lengths: int) -> None:
    """Print the peak of memory of runs of these lengths, each in a process of its own."""
    print("| members, no network | peak MB | members/s | CPU µs per member |")
    print("| ---: | ---: | ---: | ---: |")
    peaks: list[float] = []
    for members in lengths:
        command = [sys.executable, __file__, "--remember", str(members)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, env=dict(os.environ)).stdout)
        peaks.append(told["peak"])
        print(f"| {members:,} | {told['peak']:.1f} | {told['rate']:,.0f} | {told['cost']:,.0f} |", flush=True)
    print(f"| growth | {peaks[-1] - peaks[0]:.1f} (aim: at most 8) | | |")


def main() -> None:
    """Print the tables."""
    if "--remember" in sys.argv:
        run_to_remember(int(sys.argv[-1]))
        return
    quick = "--quick" in sys.argv
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, httpx {httpx.__version__}\n")
    compare(3_000 if quick else 20_000)
    remember(20_000, 40_000 if quick else 200_000)


if __name__ == "__main__":
    main()
