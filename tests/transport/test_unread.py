"""Data that a service sends after a reply is never read as the next reply, whichever layer holds it."""

import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from canary import CANARY_KEY
from reply_endings import CORK, LEFTOVERS, Ending, says_that_it_closes
from scripted_server import OK_PLANS

from tgmembership_async import AiohttpTransport, HttpxTransport, NotFound, RetryPolicy, Session

WAYS = [
    ("httpx", "asyncio"),
    ("httpx", "trio"),
    ("aiohttp", "asyncio"),
    ("lent client", "asyncio"),
    ("lent client", "trio"),
    ("lent connector", "asyncio"),
]


@pytest.fixture(params=WAYS, ids="-".join)
def crossing(request: pytest.FixtureRequest) -> tuple[str, str]:
    library, backend = request.param
    return library, backend


@pytest.fixture(params=["TCP", "TLS"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Opener = Callable[[str], AbstractAsyncContextManager[Session]]


@pytest.fixture
def opened(library: str, client_tls: ssl.SSLContext) -> Opener:
    """Return a function that opens Sessions with each transport and client."""

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Session]:
        options: dict[str, Any] = {"base_url": url, "retry": RetryPolicy(attempts=1), "read_timeout": 2.0}
        options["grant_timeout"] = 2.0
        async with contextlib.AsyncExitStack() as stack:
            if library == "lent client":
                client = await stack.enter_async_context(httpx.AsyncClient(verify=client_tls, trust_env=False))
                transport: Any = HttpxTransport(client=client)
            elif library == "lent connector":
                connector = await stack.enter_async_context(aiohttp.TCPConnector())
                transport = AiohttpTransport(connector=connector, ssl_context=client_tls, proxy=None)
            else:
                way = HttpxTransport if library == "httpx" else AiohttpTransport
                transport = way(ssl_context=client_tls, proxy=None)
            yield await stack.enter_async_context(Session(8047883872, CANARY_KEY, transport=transport, **options))

    return opened


async def read(tg: Session) -> None:
    await tg.call("anything")


async def grant(tg: Session) -> None:
    await tg.add_member(1, 42)


@pytest.mark.skipif(CORK is None, reason="only Linux lets a program say what goes into one segment")
@pytest.mark.parametrize(("first", "second"), [(read, grant), (grant, read)])
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_unread_data_is_not_the_next_reply(
    leftover: Ending,
    first: Callable[[Session], Any],
    second: Callable[[Session], Any],
    wire: str,
    serve: Any,
    run: Any,
    opened: Opener,
    server_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a refused grant would be recorded as granted, with the token of another member."""
    if leftover is says_that_it_closes and wire == "TCP":
        pytest.skip("TCP has no other way to say it than to close")
    monkeypatch.setattr("tgmembership_async.transport.lanes._PROVEN_AFTER", -1.0)
    over = threading.Event()

    def script(connection: Any) -> None:
        connection.request()
        if len(server.requests) == 1:
            leftover(connection, OK_PLANS)
            over.wait(30)
        else:
            connection.answer(404, {"ok": False, "code": 404, "description": "no such plan"})

    server = serve(script, server_tls if wire == "TLS" else None)

    async def scenario() -> None:
        try:
            async with opened(server.url) as tg:
                await first(tg)
                with pytest.raises(NotFound):
                    await second(tg)
        finally:
            over.set()

    run(scenario)
    assert len(server.requests) == 2
