"""One exchange on httpx: a request whose path only httpcore's innermost layer sees, and its reply."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self, cast

import httpcore
import httpx
from anyio import CancelScope, current_time, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from tgmembership_async.errors import UsageError
from tgmembership_async.event_loop import repeat_cancellation
from tgmembership_async.protocol.wire import Headers, Progress, Request, Response, Timeouts, with_host
from tgmembership_async.transport.base import TransportFailure
from tgmembership_async.transport.bodies import Body
from tgmembership_async.transport.httpcore import NothingWritten, OneConnection, addressed_request, stop_parsing
from tgmembership_async.transport.proxies import non_loopback_refusal
from tgmembership_async.transport.reasons import SafeMessage, reason_of
from tgmembership_async.transport.steps import Step, step_of
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Target

if TYPE_CHECKING:
    from tgmembership_async.transport.lanes import Closable

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
_LIBRARIES: Final = frozenset({httpx.__name__, httpcore.__name__, "h11", "anyio", "trio", "ssl", "socksio"})
_Send = Callable[[httpx.Request], Awaitable[httpx.Response]]


class SendTrace:
    """A callback for httpcore's trace: it records whether our headers were begun, and sets the real path.

    The path is set here because APM agents and mocks wrap higher layers, where it is masked. The CONNECT request to a
    proxy never gets it. `reply_limit` is the maximum size of the reply's body in bytes.
    """

    __slots__ = (
        "_progress",
        "_scheme",
        "cancellations",
        "connecting",
        "phase",
        "refusal",
        "reply_limit",
        "secret_fields",
        "step",
        "stream",
        "target",
    )

    def __init__(self, progress: Progress, scheme: str, reply_limit: int) -> None:
        progress.begun = False
        self._progress = progress
        self._scheme = scheme
        self.reply_limit: int = reply_limit
        self.refusal: str | None = None
        self.target: Target = _NOTHING
        self.secret_fields: tuple[tuple[bytes, Target], ...] = ()
        self.phase: CancelScope | None = None
        self.step: Step | None = None
        self.connecting: bool = False
        self.stream: Any = None
        self.cancellations: int = progress.cancellations

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Process one trace event; `info` holds httpcore's own request."""
        if event.endswith(".send_request_headers.started"):
            # CONNECT to a proxy does not send our request.
            tunnel = info["request"].method == b"CONNECT"
            # No checkpoint follows before the first write: a call that is cancelled here has sent nothing.
            await checkpoint_if_cancelled()
            self.connecting = tunnel
            self._progress.begun = self._progress.begun or not tunnel
            if not tunnel:
                if self.phase is not None:
                    self.phase.deadline = inf
                # httpcore sends the request in `info`; the original, which others may hold, stays masked.
                sent: Any = addressed_request(info["request"], self.target, self.secret_fields)
                info["request"] = sent
                # The eight events that follow are not needed, and take 30 of 330 µs.
                sent.extensions.pop("trace", None)
        elif event.startswith(("connection.", "proxy.", "socks")):
            self.connecting = not self._progress.begun
            if event.endswith(".connect_tcp.complete"):
                stream = self.stream = info["return_value"]
                self.refusal = non_loopback_refusal(self._scheme, stream.get_extra_info("server_addr"))
                if self.refusal is not None:
                    raise httpcore.ConnectError(self.refusal)

    def take_back(self) -> None:
        """Testify that none of our headers were sent after all."""
        self._progress.begun = False


class HttpxLane:
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

    async def exchange(self, wire: httpx.Request, trace: SendTrace) -> tuple[Response, bool]:
        """Return the response, and whether the exchange ended cleanly."""
        try:
            if self._is_new:
                self._is_new = False
                answer = await connecting_in_time(self._send(wire), wire, trace)
            else:  # without a scope, which takes a thirtieth of a call
                answer = await self._send(wire)
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, NothingWritten):
                trace.take_back()
            raise
        finally:
            self._stream = trace.stream or self._stream
        response = await read(answer, trace.reply_limit)
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


async def connecting_in_time(
    sending: Awaitable[httpx.Response], wire: httpx.Request, trace: SendTrace
) -> httpx.Response:
    """Apply the connect timeout to all steps before the headers; httpcore applies it to each, and to no proxy's."""
    seconds = wire.extensions["timeout"]["connect"]
    with CancelScope(deadline=current_time() + seconds) as trace.phase:
        try:
            return await sending
        except BaseException as error:
            trace.step = step_of(error)
            raise
    await repeat_cancellation(trace.cancellations)
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


def wire_request(request: Request, trace: SendTrace) -> httpx.Request:
    """Return the httpx request with the masked path, and give `trace` the real one."""
    trace.target, headers, body = request.encode()
    trace.secret_fields = request.account.secret_fields
    fields = _fields(request.account.authority, headers, len(body))
    extensions = {"timeout": _timeout(request.timeouts), "trace": trace}
    return httpx.Request(request.verb, _url(request.url), headers=fields, stream=_Body(body), extensions=extensions)


async def read(answer: httpx.Response, limit: int) -> Response:
    """Return the reply with its body, or with the beginning of a body of more than `limit` bytes."""
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


def judged(error: Exception, trace: SendTrace, request: Request, scrubber: Scrubber) -> Exception:
    """Return a TransportFailure or UsageError for an exception; one of a mock, for example, is returned unchanged."""
    if trace.refusal is not None:
        return UsageError(trace.refusal)
    ours = trace.connecting or request.progress.begun or isinstance(error, OSError)
    if not (ours or type(error).__module__.partition(".")[0] in _LIBRARIES):
        return error
    connecting = trace.connecting or isinstance(error, _CONNECT_PHASE)
    step = None if request.progress.begun else trace.step
    return TransportFailure(reason_of(error, scrubber, step), connecting=connecting)
