"""What is left on a connection between two calls: whatever is read there next would be taken for the next answer.

The socket is asked, and each layer above it: what TLS has taken from the socket (decrypted or not, and the other side's
end), and what the event loop's protocol holds for its reader.
"""

import select
import ssl
from typing import Any, Final

_WRAPPED: Final = ("_stream", "transport_stream")
"""Where the streams of httpcore, trio and anyio keep the stream below."""
_ENCRYPTED: Final = ("_incoming", "_read_bio")
"""Where TLS on trio and on anyio keeps records that it has not looked at."""


def is_readable(sock: Any) -> bool:
    """Tell whether a socket has bytes for us, or its end; a closed one has."""
    if sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def transport_holds_more(transport: Any) -> bool:
    """Tell whether an asyncio transport has anything to read: bytes or the end, on the socket or within TLS."""
    if transport.is_closing() or is_readable(transport.get_extra_info("socket")):
        return True
    tls = transport.get_extra_info("ssl_object")
    return tls is not None and _tls_holds_more(tls)


def _tls_holds_more(tls: Any) -> bool:
    """Ask TLS by reading from it: nobody uses the connection again if there is anything."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def stream_holds_more(stream: Any) -> bool:
    """Tell whether any layer of an httpcore stream above the socket has anything to read."""
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
