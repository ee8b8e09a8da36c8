"""A Session works as before after thousands of calls were cancelled at random times, in all ways."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from scripted_server import Connection, answering

from tgmembership_async import AiohttpTransport, HttpxTransport, OutcomeUnknown, Session

LANES = 8
AT_A_TIME = 24
LONGEST = 0.006  # seconds; a call takes about one to three thousandths, the first on a connection more
Cancel = Callable[[Callable[[], Awaitable[object]], float], Awaitable[None]]


async def by_scope(call: Callable[[], Awaitable[object]], after: float) -> None:
    with anyio.move_on_after(after):
        await call()


async def by_task(call: Callable[[], Awaitable[object]], after: float) -> None:
    task = asyncio.ensure_future(call())
    asyncio.get_running_loop().call_later(after, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


async def by_wait_for(call: Callable[[], Awaitable[object]], after: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(call(), after)


async def by_timeout(call: Callable[[], Awaitable[object]], after: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(after):
            await call()


CROSSINGS = pytest.mark.parametrize(
    ("way", "backend"),
    [(HttpxTransport, "asyncio"), (HttpxTransport, "trio"), (AiohttpTransport, "asyncio")],
    ids=["httpx-asyncio", "httpx-trio", "aiohttp-asyncio"],
)
WAYS: dict[str, tuple[Cancel, ...]] = {
    "asyncio": (by_scope, by_task, by_wait_for, by_timeout),
    "trio": (by_scope,),
}


@pytest.fixture(params=["TCP", "TLS", "CONNECT"])
def tg(
    request: pytest.FixtureRequest, way: Any, serve: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> tuple[Session, Any]:
    wire = str(request.param)
    server = serve(answering(), None if wire == "TCP" else server_tls)

    def tunnel(connection: Connection) -> None:
        if connection.request():
            connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.pipe("127.0.0.1", server.port)

    proxy = serve(tunnel).url if wire == "CONNECT" else None
    transport = way(ssl_context=client_tls, proxy=proxy)
    return Session(1, CANARY_KEY, base_url=server.url, transport=transport, max_connections=LANES), transport


def descriptors() -> int:
    """Return the number of open sockets of this process, which has both ends of each connection."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here to count descriptors with")
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


async def storm(tg: Session, calls: int, ways: tuple[Cancel, ...], random: Random) -> None:
    left = iter(range(calls))

    async def work() -> None:
        for number in left:
            call = tg.get_plans if number % 2 else lambda: tg.add_member(1, 42)
            # Some cancellations come after the call has ended, some before it has begun.
            with suppress(OutcomeUnknown):
                await random.choice(ways)(call, random.uniform(0, LONGEST))

    async with anyio.create_task_group() as group:
        for _ in range(AT_A_TIME):
            group.start_soon(work)


async def as_good_as_new(tg: Session, transport: Any) -> None:
    with anyio.fail_after(60):
        for _ in range(50):
            assert await tg.get_plans() == []
            await tg.add_member(1, 42)
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(tg.get_plans)
    assert transport._lanes is not None
    assert 0 < transport._lanes.idle <= LANES
    assert tg._shared.admission._slots.value == LANES, "no place is taken for ever"


@CROSSINGS
@pytest.mark.parametrize("calls", [80, pytest.param(10_000, marks=pytest.mark.soak)])
def test_after_a_storm_of_cancellations(
    calls: int, tg: tuple[Session, Any], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")  # each cancelled grant logs a warning
    session, transport = tg

    async def scenario() -> None:
        before = descriptors()
        async with session:
            await storm(session, calls, WAYS[backend], Random(calls))
            await as_good_as_new(session, transport)
        with anyio.move_on_after(5):
            while descriptors() > before:  # noqa: ASYNC110 - the servers' ends close in their threads
                await anyio.sleep(0.01)
        assert descriptors() <= before

    anyio.run(scenario, backend=backend)
