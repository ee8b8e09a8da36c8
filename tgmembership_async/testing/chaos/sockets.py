"""One of the two sockets of a connection through a `ChaosProxy`, with endings that asyncio does not offer."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any, Final, cast

from attrs import Factory, field, frozen

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_AT_A_TIME: Final = 65_536
_CLOSING_TAKES_AT_MOST: Final = 1.0


def _socket_of(leg: "Leg") -> socket.socket:
    return cast("socket.socket", leg.writer.get_extra_info("socket"))


@frozen
class Leg:
    """A stream to read from, one to write to, and the socket under both, which asyncio forgets too early."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _socket: socket.socket = field(init=False, repr=False, default=Factory(_socket_of, takes_self=True))

    @property
    def _transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    def pause(self) -> None:
        """Read nothing more from the socket."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Answer a handshake; what was read before is not part of it."""
        # asyncio learns this only afterwards, and would warn of every client that leaves in the middle of it.
        protocol: Any = self._transport.get_protocol()
        protocol._over_ssl = True  # noqa: SLF001 - it has no other name
        await self.writer.start_tls(context)

    async def write(self, part: bytes | bytearray) -> None:
        """Write, and wait until there is room for more."""
        self.writer.write(part)
        await self.writer.drain()

    async def discard(self) -> None:
        """Read until the other side ends, and forget it."""
        while await self.reader.read(_AT_A_TIME):
            pass

    async def pour_into(self, sink: "Leg") -> None:
        """Hand on all that comes, and the FIN at its end."""
        while part := await self.reader.read(_AT_A_TIME):
            await sink.write(part)
        sink.fin()

    def fin(self) -> None:
        """Send FIN, under TLS without a word of goodbye; reading goes on."""
        with suppress(OSError):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            else:
                self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End it with RST."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def abort(self) -> None:
        """End it at once; what is not written yet is lost."""
        self._transport.abort()

    async def close(self) -> None:
        """Say goodbye, but do not wait for long until the other side does."""
        self.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSING_TAKES_AT_MOST):
                await self.writer.wait_closed()
