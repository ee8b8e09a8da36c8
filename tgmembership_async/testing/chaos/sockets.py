"""A stream on a socket, with FIN and RST, which asyncio streams do not offer."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any, Final, cast

from attrs import Factory, field, frozen

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_CHUNK_SIZE: Final = 65_536
_CLOSE_TIMEOUT: Final = 1.0


def _socket_of(stream: "SocketStream") -> socket.socket:
    return cast("socket.socket", stream.writer.get_extra_info("socket"))


@frozen
class SocketStream:
    """A reader, a writer and their socket. The socket is kept because asyncio drops it when it closes the transport."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _socket: socket.socket = field(init=False, repr=False, default=Factory(_socket_of, takes_self=True))

    @property
    def _transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    def pause(self) -> None:
        """Stop reading from the socket."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading from the socket."""
        self._transport.resume_reading()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Accept a TLS handshake. Bytes that were read before are not part of the handshake."""
        # asyncio sets this only after the handshake, and would warn for each client that disconnects during it.
        protocol: Any = self._transport.get_protocol()
        protocol._over_ssl = True  # noqa: SLF001 - it has no other name
        await self.writer.start_tls(context)

    async def write(self, part: bytes | bytearray) -> None:
        """Write, and wait until the write buffer has room."""
        self.writer.write(part)
        await self.writer.drain()

    async def discard(self) -> None:
        """Read and discard until the other side sends FIN."""
        while await self.reader.read(_CHUNK_SIZE):
            pass

    async def copy_to(self, sink: "SocketStream") -> None:
        """Copy everything that is read to `sink`, and FIN at the end."""
        while part := await self.reader.read(_CHUNK_SIZE):
            await sink.write(part)
        sink.fin()

    def fin(self) -> None:
        """Send FIN, under TLS without close_notify. Reading is still possible."""
        with suppress(OSError):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            else:
                self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close the connection with RST."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def abort(self) -> None:
        """Close the connection at once, and drop unwritten bytes."""
        self._transport.abort()

    async def close(self) -> None:
        """Close the connection, and wait at most a second until the other side does so too."""
        self.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self.writer.wait_closed()
