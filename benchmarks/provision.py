"""Measure `Granter.provision` with a SqliteLedger, compared to `asyncio.gather` over plain httpx.

    python benchmarks/provision.py [--quick] [--json FILE]

64 requests are in flight, in interleaved rounds, with a server in a separate process that answers after 5 ms. Plain
httpx has a semaphore of 64, `.json()` and no ledger. It keeps all connections, as we do, or has its default limits.
These keep 20 idle ones: in most rounds nearly each request opens a new one, which is cheap on loopback without TLS, and
in the others they all stay in use. The last table is the peak memory of runs of two lengths, on a transport that
answers at once, so that only the run and its ledger are measured.
"""

import asyncio
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpcore
import httpx
from attrs import frozen
from server import server
from tables import Row, publish

import tgmembership_async
from tgmembership_async import Headers, Request, Response, Session
from tgmembership_async.grants import Granter, GrantRequest, SqliteLedger

KEY = "0123456789abcdefghij0123456789abcdefghij"
CONCURRENCY = 64
DELAY = 0.005
MEMBERS = 20_000
ROUNDS = 4
PEERS = {
    "gather over bare httpx, default limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
    "gather over bare httpx, connections kept": httpx.Limits(max_connections=100, max_keepalive_connections=100),
}


@frozen
class Figure:
    """One run: the number of members, the total wall-clock and CPU seconds, and the connections that httpx opened."""

    members: int
    wall: float
    cpu: float
    connections: int = 0

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
    return Figure(*(sum(getattr(one, name) for one in rounds) for name in ("members", "wall", "cpu", "connections")))


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


async def gather(url: str, members: int, limits: httpx.Limits, context: ssl.SSLContext) -> Figure:
    """Send the same requests without this package."""
    places = asyncio.Semaphore(CONCURRENCY)
    transport = httpx.AsyncHTTPTransport(limits=limits, verify=context, trust_env=False)
    opened = _count_connections(transport)
    # A timeout that is long enough for the run to finish.
    async with httpx.AsyncClient(timeout=600, trust_env=False, transport=transport) as client:

        async def one(number: int) -> object:
            async with places:
                response = await client.post(f"{url}/bot1/{KEY}/addMember", json={"plan_id": 1, "member_id": number})
                return response.json()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(number + 1) for number in range(members)))
        return Figure(members, time.perf_counter() - wall, time.process_time() - cpu, len(opened))


def _count_connections(transport: httpx.AsyncHTTPTransport) -> list[object]:
    """Return a list that grows with each connection that a transport opens."""
    opened: list[object] = []
    pool = transport._pool  # noqa: SLF001 - httpx has no public way
    create = pool.create_connection

    def create_connection(origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        opened.append(origin)
        return create(origin)

    pool.create_connection = create_connection  # type: ignore[method-assign]
    return opened


def authority(stack: ExitStack) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate for 127.0.0.1 with its key, and a context that trusts it."""
    import trustme  # noqa: PLC0415 - not in the processes whose memory is measured

    ca, context = trustme.CA(), ssl.create_default_context()
    ca.configure_trust(context)
    certificate = stack.enter_context(ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.tempfile())
    return Path(certificate), context


def compare(members: int, *, encrypted: bool) -> list[Row]:
    """Return all figures, measured in interleaved rounds with the same server."""
    ways: dict[str, Any] = {"httpx": tgmembership_async.HttpxTransport}
    if find_spec("aiohttp"):
        ways["aiohttp"] = tgmembership_async.AiohttpTransport
    rounds: dict[str, list[Figure]] = defaultdict(list)
    with ExitStack() as stack:
        certificate, context = authority(stack)
        url = stack.enter_context(server(DELAY, certificate if encrypted else None))
        # The first round, in which modules are loaded, is discarded.
        for count in (4 * CONCURRENCY, *[members // ROUNDS] * ROUNDS):
            for way, transport in ways.items():
                sent = transport(proxy=None, ssl_context=context)
                session = Session(1, KEY, base_url=url, max_connections=CONCURRENCY, transport=sent)
                rounds[f"provision with its ledger, on {way}"].append(asyncio.run(provision(session, count)))
            for name, limits in PEERS.items():
                rounds[name].append(asyncio.run(gather(url, count, limits, context)))
    figures = {name: total(found[1:]) for name, found in rounds.items()}
    their = figures[next(iter(PEERS))]
    return [
        {
            "who": name,
            "members/s": round(figure.rate),
            "times the rate of gather": round(figure.rate / their.rate, 2),
            "CPU µs per member": round(figure.cost),
            "of the CPU of gather": round(figure.cost / their.cost, 3),
            "connections for 1,000 members": round(1_000 * figure.connections / members) if name in PEERS else None,
        }
        for name, figure in figures.items()
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
    members = 3_000 if quick else MEMBERS
    compared = f"{members:,} members, {CONCURRENCY} in flight, {1e3 * DELAY:g} ms server"
    # Measured first: on Linux, the peak of a process includes that of its parent when it was started.
    peaks = memory(20_000, 40_000 if quick else 200_000)
    tables = {
        compared: compare(members, encrypted=False),
        f"{compared}, over TLS": compare(members, encrypted=True),
        "members without network": peaks,
    }
    publish(tables, "httpx", "aiohttp")


if __name__ == "__main__":
    main()
