"""httpcore below the httpx transport of a lane: one connection in place of a pool, and network backends."""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import h11
import httpcore

from tgmembership_async.transport import tcp
from tgmembership_async.transport.reasons import NOTHING_SENT
from tgmembership_async.transport.unread import stream_holds_more
from tgmembership_async.values.secret import Target

T = TypeVar("T")
_EXTRA: Final = {"client_addr": "sockname", "server_addr": "peername"}
POOL: Final = "_pool"
"""The attribute of an httpx transport that holds the pool."""
POOL_STATE: Final = ("_connections", "_requests")
"""The attributes of a pool that are state; the others are settings."""
_LOCKS: Final = ("_connect_lock", "_request_lock", "_state_lock")


class NothingWritten(httpcore.ConnectError):
    """A reused connection was closed or has unexpected data, and nothing of the request was written on it."""


class OneConnection:
    """A replacement for the pool of an httpx transport: one connection, created by that pool, without a queue."""

    def __init__(self, pool: Any, backend: httpcore.AsyncNetworkBackend | None) -> None:
        if backend is not None:
            pool._network_backend = backend  # noqa: SLF001 - httpx has no argument for it
        self._make = pool.create_connection
        self._connection: Any = None
        self._innermost: Any = None

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send one request, on a new connection if there is none yet."""
        if self._connection is None:
            self._connection = self._make(request.url.origin)
        answer: httpcore.Response = await self._connection.handle_async_request(request)
        if self._innermost is None:
            self._innermost = _unlocked(self._connection)
        return answer

    def is_idle(self) -> bool:
        """Tell whether the connection can be reused."""
        return self._connection is not None and is_idle(self._connection, self._innermost)

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection, self._innermost = self._connection, None, None
        if connection is not None:
            await connection.aclose()


def addressed_request(
    request: httpcore.Request, target: Target, secret_fields: tuple[tuple[bytes, Target], ...] = ()
) -> httpcore.Request:
    """Return a copy of `request` for the wire, with the real path, and headers that h11 does not validate again.

    The original, which APM agents read and change, keeps the masked path, and a plain list of headers without
    `secret_fields`.
    """
    headers = [*request.headers, *secret_fields] if secret_fields else _validated(tuple(request.headers))
    return _changed(request, url=_changed(request.url, target=target), headers=headers)


def _changed(original: T, **attributes: object) -> T:
    """Return a copy with other attributes; `copy.copy` takes three times as long."""
    changed: T = object.__new__(type(original))
    vars(changed).update(vars(original), **attributes)
    return changed


def is_idle(connection: Any, innermost: Any) -> bool:
    """Tell whether one of httpcore's connections is open and idle, without unread data.

    Unread data on the socket, in TLS or in h11 would be read as the next response.
    """
    if not connection.is_idle() or connection.has_expired():
        return False
    h11 = getattr(innermost, "_h11_state", None)
    if h11 is not None and h11.trailing_data[0]:
        return False
    stream = getattr(innermost, "_network_stream", None)
    return isinstance(stream, _Stream) or not stream_holds_more(stream)  # `has_expired` has checked a _Stream


def innermost(connection: Any) -> Any:
    """Return the innermost of httpcore's nested connections."""
    while (below := getattr(connection, "_connection", None)) is not None:
        connection = below
    return connection


def pool_of_one(pool: Any) -> Any:
    """Return a pool of one new connection, with all settings of `pool`."""
    own = copy(pool)
    cast("dict[str, Any]", vars(own)).update(_max_connections=1, **{name: [] for name in POOL_STATE})
    return own


async def close_idle_with_data(pool: Any) -> None:
    """Close the idle connections of a pool that have unread data."""
    for connection in pool.connections:
        if connection.is_idle() and not is_idle(connection, innermost(connection)):
            await connection.aclose()  # the pool drops closed connections


def drop_unconnected(pool: Any) -> None:
    """Remove the connections of a pool that never connected, and that no request uses.

    httpcore keeps them, and counts them, after a SOCKS handshake was cancelled.
    """
    used = {id(request.connection) for request in pool._requests}  # noqa: SLF001 - there is no public way
    for connection in pool.connections:
        if id(connection) not in used and getattr(connection, "_connection", connection) is None:
            pool._connections.remove(connection)  # noqa: SLF001 - as above


@lru_cache(maxsize=256)
def _validated(headers: tuple[tuple[bytes, bytes], ...]) -> Any:
    """Return headers in h11's validated form, cached: validation takes 10 µs per request."""
    try:
        return h11.Request(method="GET", target="/", headers=list(headers)).headers
    except h11.LocalProtocolError:
        return headers  # sending them raises the error


class _Unlocked:
    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        return


_UNLOCKED: Final = _Unlocked()


def _unlocked(connection: Any) -> Any:
    """Remove the locks of httpcore's nested connections, and return the innermost one.

    A lane has one task at a time, and each of three locks per call yields to the loop: a seventh of a call's CPU time.
    """
    innermost = connection
    while connection is not None:
        for lock in _LOCKS:
            if hasattr(connection, lock):
                setattr(connection, lock, _UNLOCKED)
        innermost, connection = connection, getattr(connection, "_connection", None)
    return innermost


class TrioBackend(httpcore.AsyncNetworkBackend):
    """The network backend on trio: httpcore's own, and a check of reused connections before each request."""

    def __init__(self) -> None:
        self._backend = _trio_backend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect, or raise ConnectError or ConnectTimeout."""
        return _Watched(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


def _trio_backend() -> httpcore.AsyncNetworkBackend:
    return httpcore.TrioBackend()  # type: ignore[no-any-return,unused-ignore]  # another class without trio


class _Watched(httpcore.AsyncNetworkStream):
    """A stream that raises NothingWritten if it was used before and has unread data before the next request.

    If the peer closes between this check and the write, the outcome is unknown; `tcp.Connection` does the same.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._is_used = False
        self._is_writing = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's own
        self._is_writing = False
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's own
        is_first, self._is_writing = not self._is_writing, True
        if is_first and self._is_used and (self.get_extra_info("is_readable") or stream_holds_more(self._stream)):
            raise NothingWritten(NOTHING_SENT)
        self._is_used = True
        try:
            await self._stream.write(buffer, timeout)
        except httpcore.WriteError as error:
            if is_first:  # the headers were not sent completely, and no service acts on a part of them
                raise NothingWritten(NOTHING_SENT) from error
            raise

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
    ) -> httpcore.AsyncNetworkStream:
        return _Watched(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """The network backend on asyncio: `tcp.Connection`, without anyio."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
        local_address: str | None = None,  # noqa: ARG002 - never set
        socket_options: Any = None,  # noqa: ARG002 - never set
    ) -> httpcore.AsyncNetworkStream:
        """Connect, or raise ConnectError or ConnectTimeout."""
        with _connecting():
            return _Stream(await tcp.connect(host, port, timeout))


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, connection: tcp.Connection) -> None:
        self._connection = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's own
        try:
            return await self._connection.read(max_bytes, timeout)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except tcp.NothingSentError as error:  # `read` sends the request
            raise NothingWritten(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - `read` sends
        try:
            self._connection.write(buffer)
        except tcp.NothingSentError as error:
            raise NothingWritten(str(error)) from error

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
    ) -> httpcore.AsyncNetworkStream:
        with _connecting():
            await self._connection.encrypt(ssl_context, server_hostname, timeout)
        return self

    async def aclose(self) -> None:
        await self._connection.aclose()

    def drop(self) -> None:
        """Close the connection from outside the event loop."""
        self._connection.drop()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._connection.is_readable()
        return self._connection.get_extra_info(_EXTRA.get(info, info))


@contextmanager
def _connecting() -> Generator[None, None, None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error


class _StoppedParser:
    """A parser that raises instead of reading more of a response."""

    our_state = their_state = h11.ERROR
    trailing_data = (b"", True)

    def next_event(self) -> h11.Event:
        """Raise RemoteProtocolError."""
        msg = "the rest of the reply is not read"
        raise h11.RemoteProtocolError(msg)


_STOPPED_PARSER: Final = _StoppedParser()
_WRAPPED_STREAMS: Final = ("_stream", "_httpcore_stream", "_connection")


def stop_parsing(stream: Any) -> None:
    """Make the next read of a response's body raise, even if thousands of chunks are buffered.

    Only an error from below ends all of httpcore's generators in order.
    """
    while stream is not None:
        if hasattr(stream, "_h11_state"):
            stream._h11_state = _STOPPED_PARSER  # noqa: SLF001 - there is no public way
        inner = [getattr(stream, name) for name in _WRAPPED_STREAMS if hasattr(stream, name)]
        stream = inner[0] if inner else None
