"""The faster way out, on aiohttp, for asyncio programs that have it anyway."""

import asyncio
import select
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.wire import (
    STANDARD_HEADERS,
    Account,
    Headers,
    Request,
    Response,
    Timeouts,
)
from tgmembership_async.transport.base import TransportFailure
from tgmembership_async.transport.bodies import BODY_CAP, decoded
from tgmembership_async.transport.lanes import KEEP_ALIVE, Lanes, max_idle
from tgmembership_async.transport.proxies import HTTP_SCHEMES, check_proxy, proxy_for
from tgmembership_async.transport.reasons import reason_of

if TYPE_CHECKING:
    from tgmembership_async.values.secret import Target

_JUDGED: Final = (aiohttp.ClientError, HttpProcessingError, OSError)
_NOT_ADDED: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class AiohttpTransport:
    """Send through aiohttp, on lanes of our own or through a `connector` of yours, which stays yours to close.

    `proxy` is a URL, None, or "env" for what the environment says; `ssl_context` is one with your own CA, say. Of a
    connector that you lend, as in `AiohttpTransport(connector=your_session.connector)`, its own limits, TLS settings
    and keep-alive hold; your session's cookies, traces and middleware never see our requests.
    """

    def __init__(
        self,
        *,
        connector: aiohttp.BaseConnector | None = None,
        proxy: str | None = "env",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if connector is not None and (not isinstance(connector, aiohttp.BaseConnector) or connector.closed):
            msg = "AiohttpTransport(connector=...) takes an open aiohttp connector, such as the one of your session"
            raise UsageError(msg)
        if proxy not in (None, "env"):
            check_proxy(proxy, HTTP_SCHEMES)
        self._connector = connector
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._lanes: Lanes[_Lane] | None = None

    async def send(self, request: Request) -> Response:
        """Send one request once. What fails before `_KeyedRequest.send` belongs to the connect phase by construction:
        nowhere else do our headers, or the key, meet a connection.
        """  # noqa: D205 - the second half is the proof
        progress = request.progress
        progress.begun = False
        if self._lanes is None:
            self._lanes = self._make_lanes(request.account)
        try:
            return await self._lanes.lend(lambda lane: lane.exchange(request), max_idle=max_idle(request))
        except _JUDGED as error:
            failure = TransportFailure(reason_of(error, request.account), connecting=not progress.begun)
        # Out here, so that no frame of aiohttp hangs on it.
        raise failure

    async def aclose(self) -> None:
        """Close our lanes; a connector of yours stays open."""
        if self._lanes is not None:
            await self._lanes.aclose()

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        return self._ssl_context or ssl.create_default_context()

    def _make_lanes(self, account: Account) -> "Lanes[_Lane]":
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            msg = "aiohttp runs on asyncio only: with trio, use transport='httpx'"
            raise UsageError(msg) from None
        url = proxy_for(account) if self._proxy == "env" else self._proxy
        proxy = None if url is None else URL(check_proxy(url, HTTP_SCHEMES))
        options: dict[str, Any] = {} if proxy is None else {"proxy": proxy}
        if self._connector is not None:
            if self._ssl_context is not None:
                options["ssl"] = self._ssl_context
            return Lanes(partial(_Lane, partial(_lent_connector, self._connector), options))
        # A context costs some 20 ms: one for all lanes, and none where nothing is encrypted.
        encrypted = account.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        return Lanes(partial(_Lane, partial(_own_connector, self._verify if encrypted else None), options))


class _KeyedRequest(aiohttp.ClientRequest):
    """A request that everybody, aiohttp included, knows by its masked URL until it meets its connection.

    Whatever wraps aiohttp to trace it sees no key, and neither does the CONNECT that it sends to a proxy.
    """

    def __init__(self, lane: "_Lane", method: str, url: URL, **options: Any) -> None:
        super().__init__(method, url, **options)
        self._lane = lane

    @property
    def request_info(self) -> aiohttp.RequestInfo:
        """Return what an answer shows of its request: aiohttp asks for it in the middle of `send`."""
        masked = self.original_url
        return aiohttp.RequestInfo(masked, self.method, CIMultiDictProxy(self.headers), masked)

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Write the request; only here is the key in its URL."""
        masked, self.url = self.url, self._lane.begin()
        try:
            return await super().send(conn)
        except Exception as error:  # noqa: BLE001 - it is raised again
            # No frame that has seen the URL may hang on what gets out.
            raise error.with_traceback(None) from None
        finally:
            self.url = masked


class _Answer(aiohttp.ClientResponse):
    """An answer that remembers its connection: aiohttp takes that away at the last byte."""

    came_over: Any = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read status and headers."""
        self.came_over = connection.protocol
        return await super().start(connection)


class _Lane:
    """One connection at most, in a session of aiohttp's made for it, and one exchange at a time."""

    def __init__(self, connector: Callable[[], dict[str, Any]], options: Mapping[str, Any]) -> None:
        self._connector = connector
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._came_over: Any = None
        self._to_send: tuple[Request, Target] | None = None

    def begin(self) -> URL:
        """Testify that our headers go out now, and give the URL with the key up, once."""
        if self._to_send is None:
            msg = "the connection was lost before a reply came, and nothing is sent a second time"
            raise aiohttp.ClientConnectionError(msg)
        (request, target), self._to_send = self._to_send, None
        request.progress.begun = True
        return URL(f"{request.account.origin}{target.decode('ascii')}", encoded=True)

    async def exchange(self, request: Request) -> tuple[Response, bool]:
        """Return the answer, and whether the exchange ended cleanly."""
        target, headers, body = request.encode()
        if self._session is not None and _spoilt(self._came_over):
            await self.aclose()
        if self._session is None:
            self._session = self._open()
        self._to_send = request, target
        answer = await self._session.request(
            request.verb,
            _url(request.url),
            headers=_fields(headers),
            # Where ours are all there, aiohttp adds none, and finds that out faster by itself.
            skip_auto_headers=None if request.headers is STANDARD_HEADERS else _NOT_ADDED,
            data=body or None,
            timeout=_timeout(request.timeouts),
            allow_redirects=False,
            **self._options,
        )
        if not request.progress.begun:
            answer.close()
            msg = "this version of aiohttp cannot be used: it sent something else than our request"
            raise UsageError(msg)
        self._came_over = cast("_Answer", answer).came_over
        response = await _read(answer)
        return response, not response.truncated

    async def aclose(self) -> None:
        """Close the connection, unless it is lent."""
        session, self._session, self._came_over = self._session, None, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            request_class=cast("type[aiohttp.ClientRequest]", partial(_KeyedRequest, self)),
            response_class=_Answer,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            **self._connector(),
        )
        # Tracers that patch the constructor would be shown the URL with the key, in two of their signals.
        session.trace_configs.clear()
        # It would repeat what HTTP calls idempotent where the service hung up; `begin` forbids that in any version.
        session._retry_connection = False  # noqa: SLF001 - there is no other switch
        return session


def _own_connector(verify: ssl.SSLContext | None) -> dict[str, Any]:
    return {"connector": aiohttp.TCPConnector(limit=1, keepalive_timeout=KEEP_ALIVE, ssl=verify or True)}


def _lent_connector(connector: aiohttp.BaseConnector) -> dict[str, Any]:
    return {"connector": connector, "connector_owner": False}


def _spoilt(connection: Any) -> bool:
    """Tell whether anything came since the last answer: the end, or bytes that the next one would be taken from."""
    return connection.should_close or not connection.is_connected() or _readable(connection.transport)


def _readable(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


@lru_cache(maxsize=256)
def _url(masked: str) -> URL:
    return URL(masked, encoded=True)


@lru_cache(maxsize=64)
def _timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    read = timeouts.read if timeouts.exchange is None else timeouts.exchange
    return aiohttp.ClientTimeout(total=None, connect=timeouts.connect, sock_read=read, ceil_threshold=inf)


@lru_cache(maxsize=256)
def _fields(headers: Headers) -> CIMultiDict[str]:
    return CIMultiDict(headers)


async def _read(answer: aiohttp.ClientResponse) -> Response:
    chunks: list[bytes] = []
    room = BODY_CAP
    try:
        while room >= 0 and (chunk := await answer.content.readany()):
            chunks.append(chunk[:room])
            room -= len(chunk)
    except BaseException:
        answer.close()
        raise
    if room < 0:
        answer.close()
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers])
    body, truncated = b"".join(chunks), room < 0
    if encoding := headers.get("content-encoding"):
        body, truncated = decoded(body, encoding, truncated=truncated)
    return Response(answer.status, headers, body, truncated=truncated)
