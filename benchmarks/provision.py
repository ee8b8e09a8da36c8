"""Measure `Granter.provision` with a SqliteLedger, compared to `asyncio.gather` over plain httpx.

    python benchmarks/provision.py [--quick] [--json FILE]

64 requests are in flight, in interleaved rounds, with a server in a separate process that answers after 5 ms. Plain
httpx has its default limits, a semaphore of 64, `.json()` and no ledger. The second table is the peak memory of runs of
two lengths, on a transport that answers at once, so that only the run and its ledger are measured.
"""

import asyncio
import json
import os
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
from tables import Row, publish

from tgmembership_async import Headers, Request, Response, Session
from tgmembership_async.grants import Granter, GrantRequest, SqliteLedger

KEY = "0123456789abcdefghij0123456789abcdefghij"
CONCURRENCY = 64
DELAY = 0.005
ROUNDS = 8
AIMS = {"httpx": 3.5, "aiohttp": 6.0}


@frozen
class Figure:
    """One run: the number of members, and the total wall-clock and CPU seconds."""

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
    """Return the sums over all rounds."""
    return Figure(*(sum(getattr(one, name) for one in rounds) for name in ("members", "wall", "cpu")))


class Null:
    """A Transport that returns the same token at once."""

    def __init__(self) -> None:
        body = {"ok": True, "code": 200, "result": "aE1pu1lJo7XBetF5gIRHYH7L"}
        self._answer = Response(200, Headers(()), json.dumps(body).encode())

    async def send(self, request: Request) -> Response:
        """Return the answer."""
        request.progress.begun = True
        await asyncio.sleep(0)
        return self._answer

    async def aclose(self) -> None:
        """Do nothing."""


def requests(members: int) -> Iterator[GrantRequest]:
    """Yield `members` requests."""
    return (GrantRequest(f"order-{number}", 1, number + 1) for number in range(members))


async def provision(session: Session, members: int) -> Figure:
    """Grant access to `members` members, with a new ledger."""
    with tempfile.TemporaryDirectory() as folder:
        async with session, SqliteLedger(Path(folder, "grants.db")) as ledger, Granter(session, ledger) as granter:
            wall, cpu = time.perf_counter(), time.process_time()
            async with granter.provision(requests(members), concurrency=CONCURRENCY) as run:
                async for _ in run:
                    pass
            figure = Figure(members, time.perf_counter() - wall, time.process_time() - cpu)
    assert run.summary.granted == members, run.summary
    return figure


async def gather(url: str, members: int) -> Figure:
    """Send the same requests without this package."""
    places = asyncio.Semaphore(CONCURRENCY)
    # httpx's default limits, but a timeout that is long enough for the run to finish.
    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:

        async def one(number: int) -> object:
            async with places:
                response = await client.post(f"{url}/bot1/{KEY}/addMember", json={"plan_id": 1, "member_id": number})
                return response.json()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(number + 1) for number in range(members)))
        return Figure(members, time.perf_counter() - wall, time.process_time() - cpu)


def compare(members: int) -> list[Row]:
    """Return all figures, measured in interleaved rounds with the same server."""
    transports: tuple[Literal["httpx", "aiohttp"], ...] = ("httpx", "aiohttp") if find_spec("aiohttp") else ("httpx",)
    ours: dict[str, list[Figure]] = {name: [] for name in transports}
    theirs: list[Figure] = []
    with server(DELAY) as url:
        # The first round, in which modules are loaded, is discarded.
        for count in (4 * CONCURRENCY, *[members // ROUNDS] * ROUNDS):
            for name in transports:
                session = Session(1, KEY, base_url=url, max_connections=CONCURRENCY, proxy=None, transport=name)
                ours[name].append(asyncio.run(provision(session, count)))
            theirs.append(asyncio.run(gather(url, count)))
    their = total(theirs[1:])
    named = {f"provision with its ledger, on {way}": total(rounds[1:]) for way, rounds in ours.items()}
    return [
        {
            "who": name,
            "members/s": round(figure.rate),
            "times the rate of gather": round(figure.rate / their.rate, 2),
            "CPU µs per member": round(figure.cost),
            "of the CPU of gather": round(figure.cost / their.cost, 3),
        }
        for name, figure in {**named, "gather over bare httpx, no ledger": their}.items()
    ]


def peak() -> float:
    """Return the peak memory of this process in MB."""
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure_memory(members: int) -> None:
    """Grant access to `members` members on the null transport, and print the peak memory."""
    figure = asyncio.run(provision(Session(1, KEY, transport=Null(), max_connections=CONCURRENCY), members))
    print(json.dumps({"peak": peak(), "rate": figure.rate, "cost": figure.cost}))


def memory(*lengths: int) -> list[Row]:
    """Return the peak memory of runs of these lengths, each in its own process."""
    rows: list[Row] = []
    for members in lengths:
        command = [sys.executable, __file__, "--memory", str(members)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, env=dict(os.environ)).stdout)
        rows.append(
            {
                "members": members,
                "peak MB": round(found["peak"], 1),
                "members/s": round(found["rate"]),
                "CPU µs per member": round(found["cost"]),
            }
        )
    return rows


def main() -> None:
    """Print the tables."""
    if "--memory" in sys.argv:
        measure_memory(int(sys.argv[-1]))
        return
    quick = "--quick" in sys.argv
    members = 3_000 if quick else 20_000
    compared = f"{members:,} members, {CONCURRENCY} in flight, {1e3 * DELAY:g} ms server"
    tables = {compared: compare(members), "members without network": memory(20_000, 40_000 if quick else 200_000)}
    publish(tables, "httpx", "aiohttp")


if __name__ == "__main__":
    main()
