"""The faster way out, on aiohttp, for asyncio programs that have it anyway.

Of aiohttp it takes the connector, with TLS and proxies, and the protocol of a connection, with its parser. The session
and its requests are left out: they cost more than all the rest, and would know our URLs. Here the key goes straight
from `_Road.wire` into the socket, so that whatever traces or wraps aiohttp has none to see.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from functools import cached_property, lru_cache
from inspect import signature
from math import inf
from typing import Any, Final, cast
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from anyio.lowlevel import checkpoint
from yarl import URL

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.protocol.wire import Account, Headers, Request, Response, Safety, Timeouts, addressed
from tgmembership_async.transport.base import TransportFailure
from tgmembership_async.transport.bodies import Body
from tgmembership_async.transport.lanes import KEEP_ALIVE, Lanes
from tgmembership_async.transport.leftovers import transport_holds_more
from tgmembership_async.transport.proxies import HTTP_SCHEMES, check_proxy, elsewhere, masks_of, proxy_url, route
from tgmembership_async.transport.reasons import Told, reason_of
from tgmembership_async.transport.trust import trusted
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, Target, hides_arguments

_LONGEST_HEAD: Final = 100 * 1024
"""Bytes of a status line or of one header field that are taken; h11 takes as many for all of them together."""
_HEAD: Final[Mapping[str, Any]] = {
    "max_line_size": _LONGEST_HEAD,
    "max_field_size": _LONGEST_HEAD,
    # Older releases of aiohttp do not count them.
    **({"max_headers": 512} if "max_headers" in signature(ResponseHandler.set_response_params).parameters else {}),
}
_RECEIVED_AT_ONCE: Final = 16 * 1024
_INTERIM: Final = frozenset(range(100, 200)) - {101}


class AiohttpTransport:
    """Send through aiohttp, on lanes of our own or through a `connector` of yours, which stays yours to close.

    `proxy` is a URL, None, or "env" for what the environment says; `ssl_context` is one with your own CA, say. Of a
    connector that you lend, as in `AiohttpTransport(connector=your_session.connector)`, its own limits, TLS settings
    and keep-alive hold; your session's cookies, traces and middleware never see our requests.
    """

    @hides_arguments
    def __init__(
        self,
        *,
        connector: aiohttp.BaseConnector | None = None,
        proxy: str | None = "env",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        _check_aiohttp()
        if connector is not None and (not isinstance(connector, aiohttp.BaseConnector) or connector.closed):
            msg = "AiohttpTransport(connector=...) takes an open aiohttp connector, such as the one of your session"
            raise UsageError(msg)
        if proxy not in (None, "env"):
            check_proxy(proxy, HTTP_SCHEMES)
        self._connector = connector
        self._proxy = None if proxy is None else Secret(proxy)
        self._ssl_context = ssl_context
        self._lanes: Lanes[_Lane] | None = None

    async def send(self, request: Request) -> Response:
        """Send one request once."""
        progress = request.progress
        progress.begun = False
        if self._lanes is None:
            self._lanes = self._make_lanes(request.account)
        try:
            return await self._lanes.lend(lambda lane: lane.exchange(request), unsafe=request.safety is Safety.UNSAFE)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever aiohttp raises is judged by what was sent
            failure = TransportFailure(
                reason_of(error, self._scrubber_of(request.account)), connecting=not progress.begun
            )
        # Out here, so that no frame of aiohttp hangs on it.
        raise failure

    def _scrubber_of(self, account: Account) -> Scrubber:
        return account.scrubber_with(masks_of(proxy_url(account, self._proxy)))

    async def aclose(self) -> None:
        """Close our lanes; a connector of yours stays open."""
        if self._lanes is not None:
            await self._lanes.aclose()

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        return self._ssl_context or trusted(ssl.create_default_context)

    @hides_arguments
    def _make_lanes(self, account: Account) -> "Lanes[_Lane]":
        if asyncio_loop() is None:
            msg = "aiohttp runs on asyncio only: with trio, use transport='httpx'"
            raise UsageError(msg)
        url = route(account, self._proxy, HTTP_SCHEMES)
        proxy = None if url is None else URL(url)
        if (lent := self._connector) is not None:
            road = _Road(proxy, verify=self._ssl_context or True)
            return Lanes(lambda: _Lane(road, lent, ours=False))
        # A context costs some 20 ms: one for all lanes, and none where nothing is encrypted.
        encrypted = account.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        road = _Road(proxy, verify=self._verify if encrypted else True)
        return Lanes(lambda: _Lane(road, aiohttp.TCPConnector(limit=1, keepalive_timeout=KEEP_ALIVE), ours=True))


class _Road:
    """What all lanes share: the proxy, the TLS settings, and which connections they have used."""

    __slots__ = ("_knocks", "_proxy", "_verify", "used")

    def __init__(self, proxy: URL | None, *, verify: ssl.SSLContext | bool) -> None:
        self._proxy = proxy
        self._verify = verify
        self._knocks: dict[str, aiohttp.ClientRequest] = {}
        self.used: WeakSet[ResponseHandler] = WeakSet()

    def knock(self, origin: str) -> aiohttp.ClientRequest:
        """Return what a connector wants to be shown: a request that says where to, and is never sent."""
        if origin not in self._knocks:
            proxy, headers = self._proxy, None
            if proxy is not None and (credentials := _credentials(proxy)):
                # Not by aiohttp, which can neither encode what is outside Latin-1, nor a colon.
                proxy, headers = proxy.with_user(None), {"proxy-authorization": credentials}
            self._knocks[origin] = aiohttp.ClientRequest(
                "GET", URL(origin), proxy=proxy, proxy_headers=headers, ssl=self._verify
            )
        return self._knocks[origin]

    def wire(self, request: Request) -> Target:
        """Return a whole request as it goes onto the wire."""
        target, headers, body = request.encode()
        fields = _fields(request.account.authority, headers)
        length = b"" if request.verb == "GET" else b"content-length: %d\r\n" % len(body)
        return Target(b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (request.verb.encode(), target, fields, length, body))


class _Lane:
    """One exchange at a time, on a connector of one connection, or on one that is lent."""

    __slots__ = ("_connector", "_ours", "_protocol", "_road")

    def __init__(self, road: _Road, connector: aiohttp.BaseConnector, *, ours: bool) -> None:
        self._road = road
        self._connector = connector
        self._ours = ours
        self._protocol: ResponseHandler | None = None

    def is_idle(self) -> bool:
        """Tell whether the connection of the last exchange can carry another request."""
        return self._protocol is not None and _is_idle(self._protocol)

    async def exchange(self, request: Request) -> tuple[Response, bool]:
        """Return the answer, and whether the exchange ended cleanly."""
        wire = self._road.wire(request)
        connection = await self._connect(request)
        self._protocol = _protocol(connection)
        clean = False
        try:
            response = await _converse(self._protocol, wire, request)
            clean = not response.truncated and not _took_more(self._protocol) and _is_open(self._protocol)
        finally:
            if clean:
                connection.release()
            else:
                _throw_away(connection)
        return response, clean

    async def _connect(self, request: Request) -> Connection:
        """Return a connection on which neither an end came nor anything that would be taken for the answer."""
        knock, used = self._road.knock(request.account.origin), self._road.used
        while True:
            try:
                connection = await self._connector.connect(knock, [], _timeout(request.timeouts))
            except TimeoutError:
                msg = Told(f"no connection to {request.account.origin} within {request.timeouts.connect:g} s")
                raise aiohttp.ConnectionTimeoutError(msg) from None
            protocol = _protocol(connection)
            known = protocol in used
            # No look at a new socket: there is more to read after a TLS handshake.
            if _is_idle(protocol) if known else _is_open(protocol):
                if not known:
                    _check_address(connection, request)
                used.add(protocol)
                if not known:
                    _receive_in_small_parts(_transport(protocol))
                return connection
            _throw_away(connection)
            if not known:
                msg = Told("the service hung up, or spoke before it was asked")
                raise aiohttp.ClientConnectionError(msg)

    def drop(self) -> bool:
        """Leave it to aiohttp: a connector that nobody knows any more closes its connections and warns."""
        return False

    async def aclose(self) -> None:
        """Close the connection, unless it is lent."""
        if self._ours:
            await self._connector.close()


async def _converse(protocol: ResponseHandler, wire: Target, request: Request) -> Response:
    """Write `wire` and read its answer. Nowhere else do our headers meet a connection."""
    read = request.timeouts.read if request.timeouts.exchange is None else request.timeouts.exchange
    protocol.set_response_params(read_timeout=read, read_until_eof=True, auto_decompress=False, **_HEAD)
    protocol.start_timeout()
    request.progress.begun = True
    _transport(protocol).write(wire)
    message, payload = await protocol.read()
    while message.code in _INTERIM:
        message, payload = await protocol.read()
    body = Body(request.reply_limit)
    while not body.is_too_long and not payload.at_eof():
        body.add(await payload.readany())
        if not payload.at_eof():
            await checkpoint()  # `readany` does not wait while more has come, be it all in chunks of one byte
    return await body.response(message.code, list(message.raw_headers))


def _check_aiohttp() -> None:
    """Raise UsageError if aiohttp lacks something that is called below, most of which it does not document."""
    try:
        signature(aiohttp.ClientRequest).bind("GET", URL(), proxy=None, proxy_headers=None, ssl=True)
        signature(aiohttp.BaseConnector.connect).bind(None, None, [], None)
        signature(ResponseHandler.set_response_params).bind(
            None, read_timeout=None, read_until_eof=True, auto_decompress=False, **_HEAD
        )
        for name in ("start_timeout", "read", "abort", "should_close", "is_connected"):
            getattr(ResponseHandler, name)
    except (AttributeError, TypeError):
        msg = f"aiohttp {aiohttp.__version__} lacks what this package builds on: take another, or transport='httpx'"
        raise UsageError(msg) from None


def _protocol(connection: Connection) -> ResponseHandler:
    return cast("ResponseHandler", connection.protocol)  # None when it was given back


def _transport(protocol: ResponseHandler) -> asyncio.Transport:
    return cast("asyncio.Transport", protocol.transport)  # None when it is not connected


def _receive_in_small_parts(transport: asyncio.Transport) -> None:
    """Have asyncio receive less than 256 KiB at once: all of it is parsed, chunk by chunk, before others may run."""
    if hasattr(transport, "max_size"):
        transport.max_size = _RECEIVED_AT_ONCE  # pyright: ignore[reportAttributeAccessIssue]


def _is_open(protocol: ResponseHandler) -> bool:
    return protocol.is_connected() and not protocol.should_close


def _is_idle(protocol: ResponseHandler) -> bool:
    """Tell whether a used connection is open, and nothing came since the last answer: no end, and no stray bytes."""
    return _is_open(protocol) and not transport_holds_more(_transport(protocol))


def _took_more(protocol: ResponseHandler) -> bool:
    """Tell whether the parser has begun to read another answer, and take it away: each answer gets one of its own.

    What comes later is kept by the protocol, which wants to be closed then.
    """
    parser, protocol._parser = protocol._parser, None  # noqa: SLF001 - aiohttp tells it nowhere else
    try:
        return parser is not None and parser.feed_eof() is not None
    except Exception:  # noqa: BLE001 - the beginning of something that is no answer
        return True


def _check_address(connection: Connection, request: Request) -> None:
    address = _transport(_protocol(connection)).get_extra_info("peername")
    refusal = elsewhere(request.account.scheme, address)
    if refusal is not None:
        _throw_away(connection)
        raise UsageError(refusal)


def _throw_away(connection: Connection) -> None:
    # At once: over TLS, a polite end waits half a minute for a service that hangs.
    _protocol(connection).abort()
    connection.close()


@lru_cache(maxsize=64)
def _timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=timeouts.connect, ceil_threshold=inf)


@lru_cache(maxsize=256)
def _fields(authority: str, headers: Headers) -> bytes:
    fields = addressed(headers, authority)
    return b"".join([b"%b: %b\r\n" % (name.encode(), value.encode("latin-1")) for name, value in fields])


def _credentials(proxy: URL) -> str:
    if not (proxy.user or proxy.password):
        return ""
    return "Basic " + b64encode(f"{proxy.user or ''}:{proxy.password or ''}".encode()).decode()
