"""The contestants of `call.py`: this package and its peers, each used as its documentation recommends.

Every call is a read with a small JSON reply, which is decoded, and typed where the peer types its results. Peers that
are not installed are left out.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final

import aiohttp
import httpx
from attrs import frozen
from compare import Call

from tgmembership_async import Session

KEY: Final = "0123456789abcdefghij0123456789abcdefghij"
PATH: Final = f"/bot1/{KEY}/getPlans"
PATIENCE: Final = 600.0  # long enough for the slowest to finish
Entering = Callable[[str, int], AbstractAsyncContextManager[Call]]


@frozen
class Contestant:
    """A name, the packages it needs, and a context manager that takes the server's URL and the connections."""

    name: str
    needs: tuple[str, ...]
    enter: Entering

    @property
    def present(self) -> bool:
        """Return whether all its packages are installed."""
        return all(find_spec(name) for name in self.needs)


def ours(transport: Any) -> Entering:
    """Enter a Session, with retries, deadline and typed results."""

    @asynccontextmanager
    async def enter(url: str, connections: int) -> AsyncIterator[Call]:
        options: dict[str, Any] = {"proxy": None, "deadline": PATIENCE, "transport": transport}
        async with Session(1, KEY, base_url=url, max_connections=connections, **options) as tg:
            yield tg.get_plans

    return enter


def bare_httpx(*, same_limits: bool) -> Entering:
    """Enter an httpx client, with its default limits or with ours."""

    @asynccontextmanager
    async def enter(url: str, connections: int) -> AsyncIterator[Call]:
        limits = httpx.Limits(
            max_connections=connections if same_limits else 100,
            max_keepalive_connections=connections if same_limits else 20,
        )
        timeout = httpx.Timeout(PATIENCE)
        async with httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as client:

            async def call() -> object:
                return (await client.get(f"{url}{PATH}")).json()

            yield call

    return enter


@asynccontextmanager
async def bare_aiohttp(url: str, connections: int) -> AsyncIterator[Call]:
    """Enter an aiohttp session with our limit."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:

        async def call() -> object:
            async with session.get(f"{url}{PATH}") as answer:
                return await answer.json()

        yield call


@asynccontextmanager
async def aiogram(url: str, connections: int) -> AsyncIterator[Call]:
    """Enter an aiogram bot that calls getMe."""
    from aiogram import Bot  # noqa: PLC0415 - a peer
    from aiogram.client.session.aiohttp import AiohttpSession  # noqa: PLC0415 - a peer
    from aiogram.client.telegram import TelegramAPIServer  # noqa: PLC0415 - a peer

    api = TelegramAPIServer(base=f"{url}/bot{{token}}/{{method}}", file="")
    async with Bot("1:" + KEY, session=AiohttpSession(api=api, limit=connections)) as bot:
        yield bot.get_me


@asynccontextmanager
async def openai(url: str, _connections: int) -> AsyncIterator[Call]:
    """Enter an openai client with a typed reply."""
    from openai import AsyncOpenAI, BaseModel  # noqa: PLC0415 - a peer

    class Plan(BaseModel):  # type: ignore[misc,unused-ignore]  # Any where it is not installed
        plan_id: str
        plan_name: str
        duration: str
        cost: str
        currency: str
        recurring: str

    class Plans(BaseModel):  # type: ignore[misc,unused-ignore]  # the same
        ok: bool
        code: int
        result: list[Plan]

    async with AsyncOpenAI(api_key=KEY, base_url=url, timeout=PATIENCE) as client:

        async def call() -> object:
            return await client.get(PATH, cast_to=Plans)

        yield call


def stripe(library: str) -> Entering:
    """Enter a stripe client on one of its HTTP libraries."""

    @asynccontextmanager
    async def enter(url: str, _connections: int) -> AsyncIterator[Call]:
        from stripe import AIOHTTPClient, HTTPXClient, StripeClient  # noqa: PLC0415 - a peer

        http: Any = HTTPXClient(timeout=PATIENCE) if library == "httpx" else AIOHTTPClient(timeout=PATIENCE)
        client = StripeClient(KEY, base_addresses={"api": url}, http_client=http)

        yield client.v1.balance.retrieve_async
        await http.close_async()

    return enter


@asynccontextmanager
async def githubkit(url: str, _connections: int) -> AsyncIterator[Call]:
    """Enter a githubkit client without its HTTP cache, which adds milliseconds to each call."""
    from githubkit import GitHub  # noqa: PLC0415 - a peer

    async with GitHub(KEY, base_url=url, timeout=PATIENCE, http_cache=False) as client:

        async def call() -> object:
            return json.loads((await client.arequest("GET", PATH)).content)

        yield call


OURS_HTTPX: Final = Contestant("Session on httpx", (), ours("httpx"))
OURS_AIOHTTP: Final = Contestant("Session on aiohttp", ("aiohttp",), ours("aiohttp"))
HTTPX: Final = Contestant("httpx, default limits", (), bare_httpx(same_limits=False))
HTTPX_SAME: Final = Contestant("httpx, same limits", (), bare_httpx(same_limits=True))
AIOHTTP: Final = Contestant("aiohttp", ("aiohttp",), bare_aiohttp)
SDKS: Final = (
    Contestant("openai", ("openai",), openai),
    Contestant("stripe on httpx", ("stripe",), stripe("httpx")),
    Contestant("githubkit", ("githubkit",), githubkit),
    Contestant("stripe on aiohttp", ("stripe", "aiohttp"), stripe("aiohttp")),
    Contestant("aiogram", ("aiogram",), aiogram),
)
