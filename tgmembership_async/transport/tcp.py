"""A TCP connection on asyncio's transports. anyio's streams would take a quarter of the CPU time of a call."""

import asyncio
import ssl
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest
from socket import AF_INET6, SOCK_STREAM
from typing import Any, Final

from anyio import Event, create_task_group, fail_after, move_on_after

from tgmembership_async.transport.reasons import NOTHING_SENT, SafeMessage, os_reason
from tgmembership_async.transport.unread import Watch, transport_holds_more, wrote_nothing

_NEXT_ADDRESS_AFTER: Final = 0.25
_CLOSE_TIMEOUT: Final = 1.0
_MOST_UNREAD: Final = 256 * 1024


class NothingSentError(ConnectionError):
    """A connection was closed or has unexpected data, and no byte of the request was sent on it."""


class Connection(asyncio.Protocol):
    """A TCP connection, optionally with TLS, for one task at a time. Its failures are OSErrors.

    Written data is sent by the next read, so that the head and body of a request are sent together.
    """

    __slots__ = (
        "_failure",
        "_has_ended",
        "_is_paused",
        "_is_used",
        "_loop",
        "_lost",
        "_reader",
        "_transport",
        "_unread",
        "_unsent",
        "_watch",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._watch: Watch | None = None
        self._reader: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._failure: Exception | None = None
        self._is_paused = False
        self._has_ended = False
        self._is_used = False
        self._unread = bytearray()
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = transport
        self._watch = self._watch or Watch(transport.get_extra_info("socket"))  # TLS uses the same socket

    def data_received(self, data: bytes) -> None:
        """Buffer received data; pause reading while too much is unread."""
        self._unread += data
        if len(self._unread) > _MOST_UNREAD and not self._is_paused:
            self._transport.pause_reading()
            self._is_paused = True
        self._wake()

    def eof_received(self) -> None:
        """Record that the peer has closed its side: with TLS the transport closes one step later."""
        self._has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end of the connection, and wake the reader."""
        self._failure = exc
        if not self._lost.done():
            self._lost.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def get_extra_info(self, name: str) -> Any:
        """Return the transport's "ssl_object", "peername", "sockname" or "socket"."""
        return self._transport.get_extra_info(name)

    def is_readable(self) -> bool:
        """Tell whether there is unread data, or the peer has closed its side."""
        return bool(self._unread) or self._has_ended or transport_holds_more(self._transport, self._watch)

    async def read(self, max_bytes: int, seconds: float | None) -> bytes:
        """Send the written data, and return received data, or b"" at the end of the stream.

        Raises TimeoutError after `seconds`, and NothingSentError if a reused connection has unread data or was closed,
        or if the system refused the first byte.
        """
        if self._unsent:
            # Check as late as possible: if the peer closes between this check and the write, the outcome is unknown.
            if self._is_used and self.is_readable():
                raise NothingSentError(NOTHING_SENT)
            self._is_used = True
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()
            if wrote_nothing(self._transport):
                raise NothingSentError(NOTHING_SENT)
        if not self._unread and not self._lost.done():
            await self._arrival(seconds)
        if not self._unread and self._failure is not None:
            raise ConnectionError from self._failure
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if self._is_paused and not self._unread:
            self._transport.resume_reading()
            self._is_paused = False
        return data

    async def _arrival(self, seconds: float | None) -> None:
        self._reader = self._loop.create_future()
        # A timer takes a fifth of the CPU time of a cancel scope or asyncio.timeout.
        alarm = None if seconds is None else self._loop.call_later(seconds, _time_out, self._reader, seconds)
        try:
            await self._reader
        finally:
            self._reader = None
            if alarm is not None:
                alarm.cancel()

    def write(self, data: bytes) -> None:
        """Buffer data for the next read, which sends it. Raises NothingSentError if the connection is closing."""
        if self._transport.is_closing():
            raise NothingSentError(NOTHING_SENT)
        self._unsent.append(data)

    async def encrypt(self, context: ssl.SSLContext, server_hostname: str | None, seconds: float | None) -> None:
        """Start TLS. If that fails, the connection is closed."""
        self._is_used = False  # the peer may send data after the handshake, such as session tickets
        if self._unread:
            self.abort()
            msg = SafeMessage("the peer sent data before TLS, which must not be read as a reply of the service")
            raise ConnectionAbortedError(msg)
        try:
            with fail_after(seconds):
                self._transport = await self._loop.start_tls(
                    self._transport, self, context, server_hostname=server_hostname
                )
        except BaseException:
            self.abort()
            self._loop.call_soon(self.connection_lost, None)  # asyncio does not call it for an unfinished handshake
            raise

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def drop(self) -> None:
        """Close the connection at once, from any thread; if the loop is closed, the transport closes itself."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.abort)

    async def aclose(self) -> None:
        """Close the connection at once, and wait until it is closed."""
        self.abort()
        await asyncio.wait([self._lost], timeout=_CLOSE_TIMEOUT)


def _time_out(reader: asyncio.Future[None], seconds: float) -> None:
    if not reader.done():
        reader.set_exception(TimeoutError(SafeMessage(f"no data for {seconds:g} s")))


async def connect(host: str, port: int, seconds: float | None) -> Connection:
    """Connect to a host with Happy Eyeballs: start with the next address while slow ones are still connecting."""
    with fail_after(seconds):
        addresses = await _addresses(host, port)
        if not addresses:
            msg = f"DNS has no address for {host}"
            raise OSError(msg)
        return await (_connect(addresses[0], port) if len(addresses) == 1 else _race(addresses, port))


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ip_address(host))]
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    six = [str(address[0]) for family, *_, address in found if family == AF_INET6]
    four = [str(address[0]) for family, *_, address in found if family != AF_INET6]
    return [address for address in chain.from_iterable(zip_longest(six, four)) if address is not None]


async def _connect(address: str, port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address, port)
    return connection


async def _race(addresses: list[str], port: int) -> Connection:
    found: list[Connection] = []
    failures: list[OSError] = []

    async def attempt(address: str, ended: Event) -> None:
        try:
            found.append(await _connect(address, port))
            group.cancel_scope.cancel()
        except OSError as failure:
            failures.append(failure)
        finally:
            ended.set()

    winner: Connection | None = None
    try:
        async with create_task_group() as group:
            for address in addresses:
                ended = Event()
                group.start_soon(attempt, address, ended)
                with move_on_after(_NEXT_ADDRESS_AFTER):
                    await ended.wait()
        winner = found[0] if found else None
    finally:
        for connection in found:
            if connection is not winner:
                connection.abort()
    if winner is None:
        raise OSError(SafeMessage("; ".join(os_reason(failure) for failure in failures))) from failures[-1]
    return winner
