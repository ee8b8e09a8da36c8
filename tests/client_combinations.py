"""All combinations of transport, backend and own or user-supplied client, for tests on real sockets."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import httpx
from canary import CANARY_KEY
from no_tls import NO_TLS

from tgmembership_async import AiohttpTransport, HttpxTransport, RetryPolicy, Session

WAYS = [
    *(("httpx", "asyncio"), ("httpx", "trio"), ("aiohttp", "asyncio")),
    *(("lent httpx", "asyncio"), ("lent httpx", "trio"), ("lent aiohttp", "asyncio")),
]
ONCE = RetryPolicy(attempts=1)


@asynccontextmanager
async def session_on(way: str, url: str, *, proxy: str | None = None, **options: Any) -> AsyncIterator[Session]:
    """Yield a Session without retries, optionally through a proxy."""
    async with AsyncExitStack() as stack:
        transport: Any = way
        if way == "lent httpx":
            client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, verify=NO_TLS, proxy=proxy))
            transport = HttpxTransport(client=client)
        elif way == "lent aiohttp":
            connector = await stack.enter_async_context(aiohttp.TCPConnector())
            transport = AiohttpTransport(connector=connector, proxy=proxy)
        usual = {"base_url": url, "proxy": proxy, "retry": ONCE, "transport": transport}
        yield await stack.enter_async_context(Session(8047883872, CANARY_KEY, **{**usual, **options}))
