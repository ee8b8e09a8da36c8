"""The default way out, on httpx: the only module that imports it."""

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
from tgmembership_async.protocol.wire import Account, Headers, Progress, Request, Response, Safety, Timeouts, addressed
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
    close_spoilt,
    cut_off,
    pool_of_one,
)
from tgmembership_async.transport.lanes import KEEP_ALIVE, Closable, Lanes, discard
from tgmembership_async.transport.proxies import (
    HTTP_SCHEMES,
    SOCKS_SCHEMES,
    check_proxy,
    check_straight,
    elsewhere,
    masks_of,
    proxy_url,
    route,
)
from tgmembership_async.transport.reasons import Told, reason_of
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
_ENDING_TAKES_AT_MOST: Final = 1.0
_NOTHING: Final = Target()
_NO_SECRETS: Final = Scrubber({})
_SCHEMES: Final = HTTP_SCHEMES + SOCKS_SCHEMES
_LIBRARIES: Final = frozenset({httpx.__name__, httpcore.__name__, "h11", "anyio", "trio", "ssl", "socksio"})


_STAGES: Final = {"start_tls.started": "TLS", "setup_socks5_connection.started": "proxy"}


class Witness:
    """A listener to httpcore's trace: it knows whether our headers were begun, and puts the real path into them.

    The path goes in here because this is below whatever an APM agent or a mock wraps: they see the masked one. The
    request of a proxy's CONNECT never gets it. `reply_limit` says how many bytes of the reply are read.
    """

    __slots__ = (
        "_progress",
        "_scheme",
        "connecting",
        "phase",
        "refusal",
        "reply_limit",
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
        self.phase: CancelScope | None = None
        self.stage = "DNS or TCP"
        self.connecting: bool = False
        self.stream: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Take one event down; `info` holds httpcore's own request."""
        if event.endswith(".send_request_headers.started"):
            # A proxy's CONNECT carries nothing of ours.
            tunnel = info["request"].method == b"CONNECT"
            # Nothing from here to the first write waits, and who is cancelled by now has sent nothing.
            await checkpoint_if_cancelled()
            self.connecting = tunnel
            self._progress.begun = self._progress.begun or not tunnel
            if tunnel:
                self.stage = "proxy"
            else:
                if self.phase is not None:
                    self.phase.deadline = inf
                # httpcore sends what `info` holds; whoever has the request itself keeps a masked one.
                sent: Any = addressed_request(info["request"], self.target)
                info["request"] = sent
                # The eight events that follow tell us nothing, and cost 30 of 330 µs above the socket.
                sent.extensions.pop("trace", None)
        elif event.startswith(("connection.", "proxy.", "socks")):
            self.connecting = not self._progress.begun
            self.stage = _STAGES.get(event.partition(".")[2], self.stage)
            if event.endswith(".connect_tcp.complete"):
                stream = self.stream = info["return_value"]
                self.refusal = elsewhere(self._scheme, stream.get_extra_info("server_addr"))
                if self.refusal is not None:
                    raise httpcore.ConnectError(self.refusal)

    def take_back(self) -> None:
        """Testify that none of our headers were sent after all."""
        self._progress.begun = False


_Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


class _Lane:
    """One httpx transport of one connection, and its stream: httpcore forgets that one if a handshake is cancelled."""

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
        """Tell whether the connection can carry another request."""
        return self._connection.is_idle()

    def drop(self) -> bool:
        """Close the connection from outside asyncio's event loop; on trio the socket closes itself, and warns."""
        drop = getattr(self._stream, "drop", None)
        if drop is not None:
            drop()
        return drop is not None

    async def exchange(self, wire: httpx.Request, witness: Witness) -> tuple[Response, bool]:
        """Return the answer, and whether the exchange ended cleanly."""
        try:
            if self._is_new:
                self._is_new = False
                answer = await _connecting_in_time(self._send(wire), wire, witness)
            else:  # a scope takes a thirtieth of a call
                answer = await self._send(wire)
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, NothingWritten):
                witness.take_back()
            raise
        finally:
            self._stream = witness.stream or self._stream
        response = await _read(answer, witness.reply_limit)
        if not response.truncated:
            await answer.aclose()
        return response, not response.truncated

    async def aclose(self) -> None:
        """Close the connection, finished or not."""
        try:
            await self._transport.aclose()
        finally:
            if self._stream is not None:
                await self._stream.aclose()


async def _connecting_in_time(
    sending: Awaitable[httpx.Response], wire: httpx.Request, witness: Witness
) -> httpx.Response:
    """Bound all that comes before the headers; httpcore bounds its steps one by one, and a proxy's part not at all."""
    seconds = wire.extensions["timeout"]["connect"]
    with CancelScope(deadline=current_time() + seconds) as witness.phase:
        return await sending
    msg = f"no connection within {seconds:g} s"
    raise httpx.ConnectTimeout(Told(msg))


class _Body(httpx.AsyncByteStream):
    """A body in one piece. No generator, as httpx's own is: nobody would close it when a write fails."""

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
    """Return the TLS settings of a transport that was told none: certifi's CAs, or those of SSL_CERT_FILE.

    Raises UsageError if a variable of the environment names what cannot be used.
    """
    return trust.trusted(httpx.create_ssl_context)


class HttpxTransport:
    """Send through httpx, on lanes of our own or through a `client` of yours, which stays yours to close.

    `proxy` is a URL, None, or "env" for what the environment says; `ssl_context` is one with your own CA, say. A
    `client` must have plain `httpx.AsyncHTTPTransport`s without retries: whatever repeats requests or does not call
    httpcore's `trace` extension, and HTTP/2, is a UsageError. Its own proxy and TLS settings hold, and its pool: no
    lanes then. An unsafe request gets a new connection with the same settings, closed after its answer: a reply that
    the service sent twice, and that waits in the pool, is never taken for the answer to a grant. APM agents and mocks
    that wrap httpx or httpcore see a path without the key.
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
        """Send one request once."""
        if request.account is not self._account:  # to add it each time takes a thirtieth of a call
            self._account = request.account
            self._scrubber = request.account.scrubber_with(masks_of(proxy_url(request.account, self._proxy)))
            _REDACT.scrubbers.add(self._scrubber)
        witness = Witness(request.progress, request.account.scheme, request.reply_limit)
        if self._client is None and self._lanes is None:
            self._lanes = self._make_lanes(request.account)
        ended: BaseException
        try:
            wire = _wire(request, witness)
            unsafe = request.safety is Safety.UNSAFE
            if self._lanes is not None:
                return await self._lanes.lend(lambda lane: lane.exchange(wire, witness), unsafe=unsafe)
            client = cast("httpx.AsyncClient", self._client)
            _check_way(client, wire)
            return await _through_client(client, wire, witness, unsafe=unsafe)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
            ended = _judged(error, witness, request, self._scrubber)
        except BaseExceptionGroup as group:
            ended = _cancellation_in(group)
        # Out here, so that no frame of httpx, httpcore or h11 hangs on it.
        raise ended

    async def aclose(self) -> None:
        """Close our lanes; a client of yours stays open."""
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
        # A context costs some 20 ms: one for all lanes, and none where nothing is encrypted.
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
_AS_IT_IS: Final[dict[str, Any]] = {"stream": True, "auth": None, "follow_redirects": False}
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
    fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in addressed(headers, authority)]
    return httpx.Headers([*fields, (b"content-length", b"%d" % length)] if length else fields)


def _wire(request: Request, witness: Witness) -> httpx.Request:
    witness.target, headers, body = request.encode()
    fields = _fields(request.account.authority, headers, len(body))
    extensions = {"timeout": _timeout(request.timeouts), "trace": witness}
    return httpx.Request(request.verb, _url(request.url), headers=fields, stream=_Body(body), extensions=extensions)


def _refuse_ipv6(host: str) -> None:
    """Raise UsageError for an address that httpcore would write to an HTTP proxy without its brackets."""
    if ":" in host:
        msg = (
            f"httpx cannot ask an HTTP proxy for the IPv6 address {host}: "
            "give base_url a host name, reach it without a proxy, or use transport='aiohttp'"
        )
        raise UsageError(msg)


def _check_way(client: httpx.AsyncClient, wire: httpx.Request) -> None:
    """Raise UsageError where a lent client would send through a proxy of its own what must not go there."""
    pool = getattr(client._transport_for_url(wire.url), _POOL, None)  # noqa: SLF001 - httpx shows it nowhere else
    if wire.url.scheme == "http":
        check_straight("http", isinstance(pool, httpcore.AsyncHTTPProxy | httpcore.AsyncSOCKSProxy) or None)
    if isinstance(pool, httpcore.AsyncHTTPProxy):
        _refuse_ipv6(wire.url.host)


async def _through_client(
    client: httpx.AsyncClient, wire: httpx.Request, witness: Witness, *, unsafe: bool
) -> Response:
    """Send through a client's pool; an unsafe request gets a connection of its own, for a pool hands out any it has."""
    transport = client._transport_for_url(wire.url)  # noqa: SLF001 - httpx tells it nowhere else
    if unsafe:
        return await _through_connection_of_its_own(client, transport, wire, witness)
    await close_spoilt(getattr(transport, _POOL))
    answer = await _connecting_in_time(client.send(wire, **_AS_IT_IS), wire, witness)
    try:
        return await _read(answer, witness.reply_limit)
    finally:
        await answer.aclose()


async def _through_connection_of_its_own(
    client: httpx.AsyncClient, transport: httpx.AsyncBaseTransport, wire: httpx.Request, witness: Witness
) -> Response:
    own_client, own_transport = copy(client), cast("httpx.AsyncHTTPTransport", copy(transport))
    pool = pool_of_one(getattr(transport, _POOL))
    setattr(own_transport, _POOL, pool)
    vars(own_client).update(_transport=own_transport, _mounts={})
    lane = _Lane(own_transport, pool, partial(own_client.send, **_AS_IT_IS))
    try:
        response, _ = await lane.exchange(wire, witness)
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
        with CancelScope(shield=True, deadline=current_time() + _ENDING_TAKES_AT_MOST):
            await _end(answer, stream)
        raise
    return await body.response(answer.status_code, answer.headers.raw)


async def _end(answer: httpx.Response, stream: AsyncIterator[bytes]) -> None:
    await answer.aclose()
    cut_off(answer.stream)
    with suppress(httpx.TransportError):
        async for _ in stream:
            pass


def _judged(error: Exception, witness: Witness, request: Request, scrubber: Scrubber) -> Exception:
    """Return what an exception proves; unchanged is one of somebody who stands in for the libraries, such as a mock."""
    if witness.refusal is not None:
        return UsageError(witness.refusal)
    ours = witness.connecting or request.progress.begun or isinstance(error, OSError)
    if not (ours or type(error).__module__.partition(".")[0] in _LIBRARIES):
        return error
    connecting = witness.connecting or isinstance(error, _CONNECT_PHASE)
    reason = reason_of(error, scrubber)
    return TransportFailure(f"{witness.stage}: {reason}" if witness.connecting else reason, connecting=connecting)


def _cancellation_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the cancellation that trio wraps when it strikes while connecting, or the group if it holds more."""
    cancelled, more = group.split(get_cancelled_exc_class())
    found: BaseException = group if cancelled is None or more is not None else cancelled
    while found is not group and _is_group(found):
        found = found.exceptions[0]
    return found


def _is_group(error: BaseException) -> TypeGuard[BaseExceptionGroup[BaseException]]:
    return isinstance(error, BaseExceptionGroup)


def check_client(client: object) -> None:
    """Raise UsageError unless every transport of `client` is a plain one, without retries and without HTTP/2."""
    if not isinstance(client, httpx.AsyncClient) or client.is_closed:
        msg = "HttpxTransport(client=...) takes an open httpx.AsyncClient"
        raise UsageError(msg)
    mounted: list[object] = [client._transport, *client._mounts.values()]  # noqa: SLF001 - httpx shows them nowhere else
    for transport in mounted:
        if transport is None:
            continue
        pool = getattr(transport, _POOL, None)
        if type(transport) is not httpx.AsyncHTTPTransport or getattr(pool, "_retries", None):
            msg = (
                f"the client's {type(transport).__name__} is not a plain httpx.AsyncHTTPTransport without retries: "
                "a request that something else repeats or redirects could grant a member twice"
            )
            raise UsageError(msg)
        if getattr(pool, "_http2", False):
            msg = "the client has http2=True: with HTTP/2 the library hpack logs the API key; leave HTTP/2 off"
            raise UsageError(msg)
        if not all(hasattr(pool, name) for name in POOL_STATE):
            msg = f"httpcore {httpcore.__version__} lacks what this package builds on: take another, or lend no client"
            raise UsageError(msg)


def _check_proxy(url: str | None) -> str | None:
    if url is not None and check_proxy(url, _SCHEMES).startswith(SOCKS_SCHEMES):
        try:
            import socksio  # type: ignore[import-untyped,unused-ignore] # noqa: F401, PLC0415 - an extra
        except ImportError:
            msg = "a SOCKS proxy needs an extra: pip install 'tgmembership-async[socks]'"
            raise UsageError(msg) from None
    return url


class _Redact(logging.Filter):
    """Take the secrets of live transports out of what httpcore logs at DEBUG: a redirect may echo our path."""

    def __init__(self) -> None:
        super().__init__()
        self.scrubbers: WeakSet[Scrubber] = WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without secrets."""
        for scrubber in tuple(self.scrubbers):
            record.msg = scrubber.scrub_text(str(record.msg))
        return True


_REDACT: Final = _Redact()
for _name in ("connection", "http11", "http2", "proxy", "socks"):
    logging.getLogger(f"{httpcore.__name__}.{_name}").addFilter(_REDACT)
