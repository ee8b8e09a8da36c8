"""The transport on aiohttp: faster than the one on httpx, asyncio only.

It uses aiohttp's connector, with TLS and proxies, and its connection protocol, with the parser. It does not use
`ClientSession`, which takes more time than all the rest, and whose tracing would see our URLs: here the API key goes
from `_Shared.wire` directly to the socket.
"""

import asyncio
import ssl
from collections.abc import Mapping
from functools import cached_property, lru_cache
from inspect import signature
from math import inf
from typing import Any, Final, cast
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from yarl import URL

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.protocol.wire import Account, Headers, Request, Response, Safety, Timeouts, with_host
from tgmembership_async.transport.base import TransportFailure
from tgmembership_async.transport.bodies import Body
from tgmembership_async.transport.lanes import KEEP_ALIVE, SHARED, Lanes
from tgmembership_async.transport.proxies import (
    HTTP_SCHEMES,
    basic_credentials,
    check_proxy,
    masks_of,
    non_loopback_refusal,
    proxy_url,
    route,
)
from tgmembership_async.transport.reasons import NOTHING_SENT, SafeMessage, reason_of
from tgmembership_async.transport.steps import step_of
from tgmembership_async.transport.trust import trusted
from tgmembership_async.transport.unread import Watch, transport_holds_more, wrote_nothing
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, Target, hides_arguments

_LONGEST_HEAD: Final = 100 * 1024
"""Maximum size of a status line or of one header field in bytes; h11 has the same limit for all of them together."""
_HEAD: Final[Mapping[str, Any]] = {
    "max_line_size": _LONGEST_HEAD,
    "max_field_size": _LONGEST_HEAD,
    # Older releases of aiohttp have no such limit.
    **({"max_headers": 512} if "max_headers" in signature(ResponseHandler.set_response_params).parameters else {}),
}
_RECEIVED_AT_ONCE: Final = 16 * 1024
_INTERIM: Final = frozenset(range(100, 200)) - {101}


class AiohttpTransport:
    """Send through aiohttp, on connections of its own or through your `connector`, which you close.

    Give each Session a transport of its own: its connections lead to one service. `proxy` is a URL, None, or "env" for
    the environment variables; `ssl_context` is for a CA of your own, for example. A connector, as in
    `AiohttpTransport(connector=your_session.connector)`, keeps its limits, TLS settings and keep-alive. The cookies,
    traces and middleware of your ClientSession do not apply to these requests.
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
            msg = "AiohttpTransport(connector=...) takes an open aiohttp connector, such as that of your ClientSession"
            raise UsageError(msg)
        if proxy not in (None, "env"):
            check_proxy(proxy, HTTP_SCHEMES)
        self._connector = connector
        self._proxy = None if proxy is None else Secret(proxy)
        self._ssl_context = ssl_context
        self._lanes: Lanes[_Lane] | None = None
        self._account: Account | None = None

    async def send(self, request: Request) -> Response:
        """Send one request once. Raise TransportFailure if there is no complete response."""
        progress = request.progress
        progress.begun = False
        if self._lanes is None:
            self._account, self._lanes = request.account, self._make_lanes(request.account)
        if request.account is not self._account and request.account != self._account:
            raise UsageError(SHARED)
        try:
            return await self._lanes.run(lambda lane: lane.exchange(request), unsafe=request.safety is Safety.UNSAFE)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - judged by what was sent, not by its class
            step = None if progress.begun else step_of(error)
            reason = reason_of(error, self._scrubber_of(request.account), step)
            failure = TransportFailure(reason, connecting=not progress.begun)
        # Outside of `except`, so that its traceback has no frames of aiohttp.
        raise failure

    def _scrubber_of(self, account: Account) -> Scrubber:
        return account.scrubber_with(masks_of(proxy_url(account, self._proxy)))

    async def aclose(self) -> None:
        """Close the transport's own connections; your connector stays open."""
        if self._lanes is not None:
            await self._lanes.aclose()

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        return self._ssl_context or trusted(ssl.create_default_context)

    @hides_arguments
    def _make_lanes(self, account: Account) -> "Lanes[_Lane]":
        if asyncio_loop() is None:
            msg = "aiohttp requires asyncio: on trio, use transport='httpx'"
            raise UsageError(msg)
        url = route(account, self._proxy, HTTP_SCHEMES)
        proxy = None if url is None else URL(url)
        if (lent := self._connector) is not None:
            shared = _Shared(proxy, verify=self._ssl_context or True)
            return Lanes(lambda: _Lane(shared, lent, ours=False))
        # Creating a context takes 20 ms: one for all lanes, and none without TLS.
        encrypted = account.scheme == "https" or (proxy is not None and proxy.scheme == "https")
        shared = _Shared(proxy, verify=self._verify if encrypted else True)
        return Lanes(lambda: _Lane(shared, aiohttp.TCPConnector(limit=1, keepalive_timeout=KEEP_ALIVE), ours=True))


class _Shared:
    """State that all lanes share: the proxy, the TLS settings, and the connections that were used before."""

    __slots__ = ("_connect_requests", "_proxy", "_verify", "used")

    def __init__(self, proxy: URL | None, *, verify: ssl.SSLContext | bool) -> None:
        self._proxy = proxy
        self._verify = verify
        self._connect_requests: dict[str, aiohttp.ClientRequest] = {}
        self.used: WeakSet[ResponseHandler] = WeakSet()

    def connect_request(self, origin: str) -> aiohttp.ClientRequest:
        """Return the request that a connector needs to connect to `origin`; it is never sent."""
        if origin not in self._connect_requests:
            proxy, headers = self._proxy, None
            if proxy is not None and (proxy.user or proxy.password):
                # aiohttp cannot encode credentials outside Latin-1 or with a colon.
                credentials = basic_credentials(proxy.user or "", proxy.password or "")
                proxy, headers = proxy.with_user(None), {"proxy-authorization": f"Basic {credentials}"}
            self._connect_requests[origin] = aiohttp.ClientRequest(
                "GET", URL(origin), proxy=proxy, proxy_headers=headers, ssl=self._verify
            )
        return self._connect_requests[origin]

    def wire(self, request: Request) -> Target:
        """Return a complete request as bytes for the wire."""
        target, headers, body = request.encode()
        fields = _fields(request.account.authority, headers)
        for name, value in request.account.secret_fields:
            fields += b"%b: %b\r\n" % (name, value)
        length = b"" if request.verb == "GET" else b"content-length: %d\r\n" % len(body)
        return Target(b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (request.verb.encode(), target, fields, length, body))


class _Lane:
    """A lane on a connector of its own with one connection, which it keeps, or on the user's connector."""

    __slots__ = ("_connector", "_kept", "_ours", "_protocol", "_shared", "_watch")

    def __init__(self, shared: _Shared, connector: aiohttp.BaseConnector, *, ours: bool) -> None:
        self._shared = shared
        self._connector = connector
        self._ours = ours
        self._kept: Connection | None = None
        self._protocol: ResponseHandler | None = None
        self._watch: Watch | None = None

    def is_idle(self) -> bool:
        """Tell whether the connection of the last exchange can be reused."""
        return self._protocol is not None and _is_idle(self._protocol, self._watch)

    async def exchange(self, request: Request) -> tuple[Response, bool]:
        """Return the response, and whether the exchange ended cleanly."""
        wire = self._shared.wire(request)
        # Nothing is awaited between the look of `is_idle` at a kept connection and the write.
        connection, self._kept = self._kept or await self._connect(request), None
        protocol = _protocol(connection)
        if protocol is not self._protocol:
            self._protocol, self._watch = protocol, Watch(_transport(protocol).get_extra_info("socket"))
        clean = False
        try:
            response = await _exchange(protocol, wire, request)
            clean = not response.truncated and not _has_parsed_more(protocol) and _is_open(protocol)
        finally:
            if not clean:
                _abort(connection)
            elif self._ours:
                self._kept = connection
            else:
                connection.release()
        return response, clean

    async def _connect(self, request: Request) -> Connection:
        """Return an open connection without unread data, which would be read as the reply."""
        connect_request, used = self._shared.connect_request(request.account.origin), self._shared.used
        while True:
            try:
                connection = await self._connector.connect(connect_request, [], _timeout(request.timeouts))
            except TimeoutError:
                msg = SafeMessage(f"no connection to {request.account.origin} within {request.timeouts.connect:g} s")
                raise aiohttp.ConnectionTimeoutError(msg) from None
            protocol = _protocol(connection)
            if protocol is not self._protocol and protocol not in used:
                return self._checked(connection, request)
            if _is_idle(protocol):  # nothing is awaited between this look and the write
                return connection
            _abort(connection)

    def _checked(self, connection: Connection, request: Request) -> Connection:
        """Return a new connection. A socket may have data to read after a TLS handshake, so that is not looked for."""
        protocol = _protocol(connection)
        if not _is_open(protocol):
            _abort(connection)
            raise aiohttp.ClientConnectionError(NOTHING_SENT)
        _check_address(connection, request)
        _limit_receive_size(_transport(protocol))
        self._shared.used.add(protocol)
        return connection

    def drop(self) -> bool:
        """Do nothing: a garbage collected aiohttp connector closes its connections and warns."""
        return False

    async def aclose(self) -> None:
        """Close the connection, unless the connector is the user's."""
        if self._kept is not None:
            self._kept.release()
        if self._ours:
            await self._connector.close()


async def _exchange(protocol: ResponseHandler, wire: Target, request: Request) -> Response:
    """Write `wire` and read the response. This is the only place that writes a request."""
    read = request.timeouts.read if request.timeouts.exchange is None else None
    await checkpoint_if_cancelled()  # as on httpx: a call that is cancelled here has sent nothing
    protocol.set_response_params(read_timeout=read, read_until_eof=True, auto_decompress=False, **_HEAD)
    protocol.start_timeout()
    request.progress.begun = True
    transport = _transport(protocol)
    transport.write(wire)
    if wrote_nothing(transport):
        request.progress.begun = False
        raise aiohttp.ClientConnectionError(NOTHING_SENT)
    message, payload = await protocol.read()
    while message.code in _INTERIM:
        message, payload = await protocol.read()
    body = Body(request.reply_limit)
    is_at_end = payload.at_eof()
    while not is_at_end and not body.is_too_long:
        body.add(await payload.readany())
        is_at_end = payload.at_eof()
        if not is_at_end:
            await checkpoint()  # `readany` does not yield while data is buffered, even in chunks of one byte
    return await body.response(message.code, message.raw_headers)


def _check_aiohttp() -> None:
    """Raise UsageError if this version of aiohttp lacks an API used below; most of them are undocumented."""
    try:
        signature(aiohttp.ClientRequest).bind("GET", URL(), proxy=None, proxy_headers=None, ssl=True)
        signature(aiohttp.BaseConnector.connect).bind(None, None, [], None)
        signature(ResponseHandler.set_response_params).bind(
            None, read_timeout=None, read_until_eof=True, auto_decompress=False, **_HEAD
        )
        for name in ("start_timeout", "read", "abort", "should_close", "is_connected"):
            getattr(ResponseHandler, name)
    except (AttributeError, TypeError):
        msg = f"aiohttp {aiohttp.__version__} lacks an API used here: use another version, or transport='httpx'"
        raise UsageError(msg) from None


def _protocol(connection: Connection) -> ResponseHandler:
    return cast("ResponseHandler", connection.protocol)  # None once it was released


def _transport(protocol: ResponseHandler) -> asyncio.Transport:
    return cast("asyncio.Transport", protocol.transport)  # None when it is not connected


def _limit_receive_size(transport: asyncio.Transport) -> None:
    """Make asyncio receive less than 256 KiB at once, because all received data is parsed without yielding."""
    if hasattr(transport, "max_size"):
        transport.max_size = _RECEIVED_AT_ONCE  # pyright: ignore[reportAttributeAccessIssue]


def _is_open(protocol: ResponseHandler) -> bool:
    return protocol.is_connected() and not protocol.should_close


def _is_idle(protocol: ResponseHandler, watch: Watch | None = None) -> bool:
    """Tell whether a used connection is open and has no unread data."""
    return _is_open(protocol) and not transport_holds_more(_transport(protocol), watch)


def _has_parsed_more(protocol: ResponseHandler) -> bool:
    """Tell whether the parser has begun to parse another response, and remove it: each response gets a new parser.

    Later data is kept by the protocol, whose `should_close` is then true.
    """
    parser, protocol._parser = protocol._parser, None  # noqa: SLF001 - aiohttp has no public way
    try:
        return parser is not None and parser.feed_eof() is not None
    except Exception:  # noqa: BLE001 - it had begun to parse something invalid
        return True


def _check_address(connection: Connection, request: Request) -> None:
    address = _transport(_protocol(connection)).get_extra_info("peername")
    refusal = non_loopback_refusal(request.account.scheme, address)
    if refusal is not None:
        _abort(connection)
        raise UsageError(refusal)


def _abort(connection: Connection) -> None:
    # Abort: a TLS shutdown would wait half a minute for a service that hangs.
    _protocol(connection).abort()
    connection.close()


@lru_cache(maxsize=64)
def _timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=timeouts.connect, ceil_threshold=inf)


@lru_cache(maxsize=256)
def _fields(authority: str, headers: Headers) -> bytes:
    fields = with_host(headers, authority)
    return b"".join([b"%b: %b\r\n" % (name.encode(), value.encode("latin-1")) for name, value in fields])
