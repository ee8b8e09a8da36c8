"""Detect unread data on an idle connection, which would be read as the next reply, and a write that failed at once.

The socket is checked, and each layer above it: data that TLS has read from the socket (decrypted or not, including the
peer's close), and data that the event loop's protocol has buffered.
"""

import asyncio
import select
import ssl
from typing import Any, Final

_WRAPPED: Final = ("_stream", "transport_stream")
"""The attributes of httpcore's, trio's and anyio's streams that hold the wrapped stream."""
_ENCRYPTED: Final = ("_incoming", "_read_bio")
"""The attributes of trio's and anyio's TLS streams that hold unprocessed records."""


class Watch:
    """Checks whether a socket is readable or at its end. Creating it takes longer than a check."""

    __slots__ = ("_poll", "_socket")

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._poll: Any = None
        if hasattr(select, "poll") and sock.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)

    def is_readable(self) -> bool:
        """Check the socket now; a closed one is readable."""
        if self._socket.fileno() < 0:
            return True
        return bool(self._poll.poll(0) if self._poll is not None else select.select([self._socket], [], [], 0)[0])


def transport_holds_more(transport: Any, watch: Watch | None = None) -> bool:
    """Tell whether an asyncio transport has unread data or has reached its end, on the socket or in TLS.

    `watch` is the Watch of its socket, for a transport that is checked often.
    """
    if transport.is_closing() or (watch or Watch(transport.get_extra_info("socket"))).is_readable():
        return True
    tls = transport.get_extra_info("ssl_object")
    return tls is not None and _tls_holds_more(tls)


def wrote_nothing(transport: Any) -> bool:
    """Tell whether the write that just returned failed before a byte left; the transport was open before it.

    asyncio's own loops send at once, and close the transport if the system refuses, because the peer has reset the
    connection. Other loops may send later, so the answer there is False.
    """
    while (tls := getattr(transport, "_ssl_protocol", None)) is not None and tls._transport is not None:  # noqa: SLF001
        transport = tls._transport  # noqa: SLF001 - the transport of TLS does not show it
    return transport.is_closing() and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)


def _tls_holds_more(tls: Any) -> bool:
    """Check TLS by reading from it: a connection with unread data is not used again."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def stream_holds_more(stream: Any) -> bool:
    """Tell whether any layer of an httpcore stream above the socket has unread data."""
    while stream is not None:
        if _layer_holds_more(stream):
            return True
        stream = next((below for name in _WRAPPED if (below := getattr(stream, name, None)) is not None), None)
    return False


def _layer_holds_more(stream: Any) -> bool:
    if any(getattr(getattr(stream, name, None), "pending", 0) for name in _ENCRYPTED):
        return True
    tls = getattr(stream, "_ssl_object", None)
    if tls is not None and tls.pending():
        return True
    protocol = getattr(stream, "_protocol", None)
    return bool(getattr(protocol, "read_queue", None) or getattr(protocol, "is_at_eof", False))
