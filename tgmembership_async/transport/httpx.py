"""The default transport, on httpx; the only module that imports httpx."""

import logging
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from copy import copy
from functools import cached_property, lru_cache, partial
from math import inf
from typing import Any, Final, Self, TypeGuard, cast
from weakref import WeakSet

import httpcore
import httpx
from anyio import CancelScope, current_time, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.protocol.wire import Account, Headers, Progress, Request, Response, Safety, Timeouts, with_host
from tgmembership_async.transport import trust
from tgmembership_async.transport.base import TransportFailure
from tgmembership_async.transport.bodies import Body
from tgmembership_async.transport.httpcore import (
    POOL_STATE,
    AsyncioBackend,
    NothingWritten,
    OneConnection,
    TrioBackend,
    addressed_request,
    close_idle_with_data,
    pool_of_one,
    stop_parsing,
)
from tgmembership_async.transport.lanes import KEEP_ALIVE, Closable, Lanes, discard
from tgmembership_async.transport.proxies import (
    HTTP_SCHEMES,
    SOCKS_SCHEMES,
    check_no_proxy,
    check_proxy,
    masks_of,
    non_loopback_refusal,
    proxy_url,
    route,
)
from tgmembership_async.transport.reasons import SafeMessage, reason_of
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, Target, hides_arguments

_CONNECT_PHASE: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
    httpcore.ConnectionNotAvailable,
)
_STOP_READING_TIMEOUT: Final = 1.0
_NOTHING: Final = Target()
_NO_SECRETS: Final = Scrubber({})
_SCHEMES: Final = HTTP_SCHEMES + SOCKS_SCHEMES
_LIBRARIES: Final = frozenset({httpx.__name__, httpcore.__name__, "h11", "anyio", "trio", "ssl", "socksio"})


_STAGES: Final = {"start_tls.started": "TLS", "setup_socks5_connection.started": "proxy"}


class _SendTrace:
    """A callback for httpcore's trace: it records whether our headers were begun, and sets the real path.

    The path is set here because APM agents and mocks wrap higher layers, where it is masked. The CONNECT request to a
    proxy never gets it. `reply_limit` is the maximum size of the reply's body in bytes.
    """

    __slots__ = (
        "_progress",
        "_scheme",
        "connecting",
        "phase",
        "refusal",
        "reply_limit",
        "secret_fields",
        "stage",
        "stream",
        "target",
    )

    def __init__(self, progress: Progress, scheme: str, reply_limit: int) -> None:
        progress.begun = False
        self._progress = progress
        self._scheme = scheme
        self.reply_limit = reply_limit
        self.refusal: str | None = None
        self.target: Target = _NOTHING
        self.secret_fields: tuple[tuple[bytes, Target], ...] = ()
        self.phase: CancelScope | None = None
        self.stage = "DNS or TCP"
        self.connecting: bool = False
        self.stream: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Process one trace event; `info` holds httpcore's own request."""
        if event.endswith(".send_request_headers.started"):
            # CONNECT to a proxy does not send our request.
            tunnel = info["request"].method == b"CONNECT"
            # No checkpoint follows before the first write: a call that is cancelled here has sent nothing.
            await checkpoint_if_cancelled()
            self.connecting = tunnel
            self._progress.begun = self._progress.begun or not tunnel
            if tunnel:
                self.stage = "proxy"
            else:
                if self.phase is not None:
                    self.phase.deadline = inf
                # httpcore sends the request in `info`; the original, which others may hold, stays masked.
                sent: Any = addressed_request(info["request"], self.target, self.secret_fields)
                info["request"] = sent
                # The eight events that follow are not needed, and take 30 of 330 µs.
                sent.extensions.pop("trace", None)
        elif event.startswith(("connection.", "proxy.", "socks")):
            self.connecting = not self._progress.begun
            self.stage = _STAGES.get(event.partition(".")[2], self.stage)
            if event.endswith(".connect_tcp.complete"):
                stream = self.stream = info["return_value"]
                self.refusal = non_loopback_refusal(self._scheme, stream.get_extra_info("server_addr"))
                if self.refusal is not None:
                    raise httpcore.ConnectError(self.refusal)

    def take_back(self) -> None:
        """Testify that none of our headers were sent after all."""
        self._progress.begun = False


_Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


class _Lane:
    """A lane on an httpx transport. It keeps the stream, which httpcore drops if a handshake is cancelled."""

    __slots__ = ("_connection", "_is_new", "_send", "_stream", "_transport")

    def __init__(
        self, transport: httpx.AsyncHTTPTransport, connection: OneConnection, send: _Send | None = None
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._send = send or transport.handle_async_request
        self._is_new = True
        self._stream: Closable | None = None

    def is_idle(self) -> bool:
        """Tell whether the connection can be reused."""
        return self._connection.is_idle()

    def drop(self) -> bool:
        """Close the connection from outside asyncio's event loop; on trio garbage collection closes the socket."""
        drop = getattr(self._stream, "drop", None)
        if drop is not None:
            drop()
        return drop is not None

    async def exchange(self, wire: httpx.Request, trace: _SendTrace) -> tuple[Response, bool]:
        """Return the response, and whether the exchange ended cleanly."""
        try:
            if self._is_new:
                self._is_new = False
                answer = await _connecting_in_time(self._send(wire), wire, trace)
            else:  # without a scope, which takes a thirtieth of a call
                answer = await self._send(wire)
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, NothingWritten):
                trace.take_back()
            raise
        finally:
            self._stream = trace.stream or self._stream
        response = await _read(answer, trace.reply_limit)
        if not response.truncated:
            await answer.aclose()
        return response, not response.truncated

    async def aclose(self) -> None:
        """Close the connection, even if it is not yet established."""
        try:
            await self._transport.aclose()
        finally:
            if self._stream is not None:
                await self._stream.aclose()


async def _connecting_in_time(
    sending: Awaitable[httpx.Response], wire: httpx.Request, trace: _SendTrace
) -> httpx.Response:
    """Apply the connect timeout to all steps before the headers; httpcore applies it to each, and to no proxy's."""
    seconds = wire.extensions["timeout"]["connect"]
    with CancelScope(deadline=current_time() + seconds) as trace.phase:
        return await sending
    msg = f"no connection within {seconds:g} s"
    raise httpx.ConnectTimeout(SafeMessage(msg))


class _Body(httpx.AsyncByteStream):
    """A request body in one chunk. Not a generator as in httpx, which would stay unclosed if a write fails."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        part, self._rest = self._rest, b""
        if not part:
            raise StopAsyncIteration
        return part


def trusted() -> ssl.SSLContext:
    """Return the default TLS context: certifi's CAs, or those of SSL_CERT_FILE.

    Raises UsageError if an environment variable for TLS is not usable.
    """
    return trust.trusted(httpx.create_ssl_context)


class HttpxTransport:
    """Send through httpx, on connections of its own or through your `client`, which you close.

    `proxy` is a URL, None, or "env" for the environment variables; `ssl_context` is for a CA of your own, for example.
    A `client` must use plain `httpx.AsyncHTTPTransport`s without retries and HTTP/2, or UsageError is raised: other
    transports may repeat requests or not call httpcore's `trace` extension. It keeps its proxy, its TLS settings and
    its pool. An unsafe request gets a new connection with the same settings, which is closed afterwards, so that a
    duplicate reply on a pooled connection is never read as the reply to a grant. APM agents and mocks that wrap httpx
    or httpcore see a path without the API key.
    """

    @hides_arguments
    def __init__(
        self,
        *,
        client: httpx.AsyncClient | None = None,
        proxy: str | None = "env",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if client is not None:
            check_client(client)
        elif proxy not in (None, "env"):
            _check_proxy(proxy)
        self._client = client
        self._proxy = None if proxy is None else Secret(proxy)
        self._ssl_context = ssl_context
        self._lanes: Lanes[_Lane] | None = None
        self._account: Account | None = None
        self._scrubber = _NO_SECRETS

    async def send(self, request: Request) -> Response:
        """Send one request once. Raise TransportFailure if there is no complete response."""
        if request.account is not self._account:  # adding it each time takes a thirtieth of a call
            self._account = request.account
            self._scrubber = request.account.scrubber_with(masks_of(proxy_url(request.account, self._proxy)))
            _REDACT.scrubbers.add(self._scrubber)
        trace = _SendTrace(request.progress, request.account.scheme, request.reply_limit)
        if self._client is None and self._lanes is None:
            self._lanes = self._make_lanes(request.account)
        ended: BaseException
        try:
            wire = _wire(request, trace)
            unsafe = request.safety is Safety.UNSAFE
            if self._lanes is not None:
                return await self._lanes.lend(lambda lane: lane.exchange(wire, trace), unsafe=unsafe)
            client = cast("httpx.AsyncClient", self._client)
            _check_client_proxy(client, wire)
            return await _through_client(client, wire, trace, unsafe=unsafe)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - judged by what was sent
            ended = _judged(error, trace, request, self._scrubber)
        except BaseExceptionGroup as group:
            ended = _cancellation_in(group)
        # Outside of `except`, so that its traceback has no frames of httpx, httpcore or h11.
        raise ended

    async def aclose(self) -> None:
        """Close the transport's own connections; your client stays open."""
        if self._lanes is not None:
            await self._lanes.aclose()

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        return self._ssl_context or trusted()

    @hides_arguments
    def _make_lanes(self, account: Account) -> Lanes[_Lane]:
        url = _check_proxy(route(account, self._proxy, _SCHEMES))
        if url is not None and url.startswith(HTTP_SCHEMES):
            _refuse_ipv6(account.host)
        encrypted_proxy = url is not None and url.startswith("https://")
        # Creating a context takes 20 ms: one for all lanes, and none without TLS.
        verify: ssl.SSLContext | bool = self._verify if account.scheme == "https" or encrypted_proxy else False
        backend = AsyncioBackend() if asyncio_loop() is not None else TrioBackend()
        proxy = None if url is None else httpx.Proxy(url, ssl_context=self._verify if encrypted_proxy else None)

        def lane() -> _Lane:
            transport = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, proxy=proxy, limits=_ONE_CONNECTION)
            connection = OneConnection(getattr(transport, _POOL), backend)
            setattr(transport, _POOL, connection)
            return _Lane(transport, connection)

        return Lanes(lane)


_POOL: Final = "_pool"
_SEND_OPTIONS: Final[dict[str, Any]] = {"stream": True, "auth": None, "follow_redirects": False}
_ONE_CONNECTION: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE)


@lru_cache(maxsize=256)
def _url(masked: str) -> httpx.URL:
    return httpx.URL(masked)


@lru_cache(maxsize=64)
def _timeout(timeouts: Timeouts) -> Mapping[str, float]:
    read = timeouts.read if timeouts.exchange is None else timeouts.exchange
    return {"connect": timeouts.connect, "read": read, "write": read, "pool": timeouts.connect}


@lru_cache(maxsize=256)
def _fields(authority: str, headers: Headers, length: int) -> httpx.Headers:
    fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in with_host(headers, authority)]
    return httpx.Headers([*fields, (b"content-length", b"%d" % length)] if length else fields)


def _wire(request: Request, trace: _SendTrace) -> httpx.Request:
    trace.target, headers, body = request.encode()
    trace.secret_fields = request.account.secret_fields
    fields = _fields(request.account.authority, headers, len(body))
    extensions = {"timeout": _timeout(request.timeouts), "trace": trace}
    return httpx.Request(request.verb, _url(request.url), headers=fields, stream=_Body(body), extensions=extensions)


def _refuse_ipv6(host: str) -> None:
    """Raise UsageError for an IPv6 address, which httpcore sends to an HTTP proxy without brackets."""
    if ":" in host:
        msg = (
            f"httpx cannot connect to the IPv6 address {host} through an HTTP proxy: "
            "use a host name in base_url, no proxy, or transport='aiohttp'"
        )
        raise UsageError(msg)


def _check_client_proxy(client: httpx.AsyncClient, wire: httpx.Request) -> None:
    """Raise UsageError if the user's client would send a request through its proxy that must not go there."""
    pool = getattr(client._transport_for_url(wire.url), _POOL, None)  # noqa: SLF001 - httpx has no public way
    if wire.url.scheme == "http":
        check_no_proxy("http", isinstance(pool, httpcore.AsyncHTTPProxy | httpcore.AsyncSOCKSProxy) or None)
    if isinstance(pool, httpcore.AsyncHTTPProxy):
        _refuse_ipv6(wire.url.host)


async def _through_client(
    client: httpx.AsyncClient, wire: httpx.Request, trace: _SendTrace, *, unsafe: bool
) -> Response:
    """Send through the user's client; an unsafe request gets a new connection instead of one of the pool."""
    transport = client._transport_for_url(wire.url)  # noqa: SLF001 - httpx has no public way
    if unsafe:
        return await _through_new_connection(client, transport, wire, trace)
    await close_idle_with_data(getattr(transport, _POOL))
    answer = await _connecting_in_time(client.send(wire, **_SEND_OPTIONS), wire, trace)
    try:
        return await _read(answer, trace.reply_limit)
    finally:
        await answer.aclose()


async def _through_new_connection(
    client: httpx.AsyncClient, transport: httpx.AsyncBaseTransport, wire: httpx.Request, trace: _SendTrace
) -> Response:
    own_client, own_transport = copy(client), cast("httpx.AsyncHTTPTransport", copy(transport))
    pool = pool_of_one(getattr(transport, _POOL))
    setattr(own_transport, _POOL, pool)
    vars(own_client).update(_transport=own_transport, _mounts={})
    lane = _Lane(own_transport, pool, partial(own_client.send, **_SEND_OPTIONS))
    try:
        response, _ = await lane.exchange(wire, trace)
    finally:
        await discard(lane)
    return response


async def _read(answer: httpx.Response, limit: int) -> Response:
    stream = aiter(cast("AsyncIterable[bytes]", answer.stream))
    body = Body(limit)
    try:
        async for chunk in stream:
            body.add(chunk)
            if body.is_too_long:
                await _end(answer, stream)
                break
            await body.pause()
    except get_cancelled_exc_class():
        with CancelScope(shield=True, deadline=current_time() + _STOP_READING_TIMEOUT):
            await _end(answer, stream)
        raise
    return await body.response(answer.status_code, answer.headers.raw)


async def _end(answer: httpx.Response, stream: AsyncIterator[bytes]) -> None:
    await answer.aclose()
    stop_parsing(answer.stream)
    with suppress(httpx.TransportError):
        async for _ in stream:
            pass


def _judged(error: Exception, trace: _SendTrace, request: Request, scrubber: Scrubber) -> Exception:
    """Return a TransportFailure or UsageError for an exception; one of a mock, for example, is returned unchanged."""
    if trace.refusal is not None:
        return UsageError(trace.refusal)
    ours = trace.connecting or request.progress.begun or isinstance(error, OSError)
    if not (ours or type(error).__module__.partition(".")[0] in _LIBRARIES):
        return error
    connecting = trace.connecting or isinstance(error, _CONNECT_PHASE)
    reason = reason_of(error, scrubber)
    return TransportFailure(f"{trace.stage}: {reason}" if trace.connecting else reason, connecting=connecting)


def _cancellation_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the cancellation that trio wraps in a group while connecting, or the group if it holds more."""
    cancelled, more = group.split(get_cancelled_exc_class())
    found: BaseException = group if cancelled is None or more is not None else cancelled
    while found is not group and _is_group(found):
        found = found.exceptions[0]
    return found


def _is_group(error: BaseException) -> TypeGuard[BaseExceptionGroup[BaseException]]:
    return isinstance(error, BaseExceptionGroup)


def check_client(client: object) -> None:
    """Raise UsageError unless all transports of `client` are plain, without retries and HTTP/2."""
    if not isinstance(client, httpx.AsyncClient) or client.is_closed:
        msg = "HttpxTransport(client=...) takes an open httpx.AsyncClient"
        raise UsageError(msg)
    mounted: list[object] = [client._transport, *client._mounts.values()]  # noqa: SLF001 - httpx has no public way
    for transport in mounted:
        if transport is None:
            continue
        pool = getattr(transport, _POOL, None)
        if type(transport) is not httpx.AsyncHTTPTransport or getattr(pool, "_retries", None):
            msg = (
                f"the client's {type(transport).__name__} is not a plain httpx.AsyncHTTPTransport without retries: "
                "another layer that repeats or redirects a request could grant a member twice"
            )
            raise UsageError(msg)
        if getattr(pool, "_http2", False):
            msg = "the client has http2=True, with which the library hpack logs the API key: turn HTTP/2 off"
            raise UsageError(msg)
        if not all(hasattr(pool, name) for name in POOL_STATE):
            msg = f"httpcore {httpcore.__version__} lacks an API used here: use another version, or no client"
            raise UsageError(msg)


def _check_proxy(url: str | None) -> str | None:
    if url is not None and check_proxy(url, _SCHEMES).startswith(SOCKS_SCHEMES):
        try:
            import socksio  # type: ignore[import-untyped,unused-ignore] # noqa: F401, PLC0415 - an extra
        except ImportError:
            msg = "a SOCKS proxy requires an extra: pip install 'tgmembership-async[socks]'"
            raise UsageError(msg) from None
    return url


class _Redact(logging.Filter):
    """Mask the secrets of open transports in httpcore's DEBUG logs, which may show a redirect that echoes our path."""

    def __init__(self) -> None:
        super().__init__()
        self.scrubbers: WeakSet[Scrubber] = WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the secrets in a record, and return True."""
        for scrubber in tuple(self.scrubbers):
            record.msg = scrubber.scrub_text(str(record.msg))
        return True


_REDACT: Final = _Redact()
for _name in ("connection", "http11", "http2", "proxy", "socks"):
    logging.getLogger(f"{httpcore.__name__}.{_name}").addFilter(_REDACT)
