"""Read whole HTTP/1.1 messages from a stream, byte for byte."""

from asyncio import IncompleteReadError, StreamReader
from typing import Final

from attrs import field, frozen

_WITHOUT_BODY: Final = frozenset({b"204", b"304"})
_CHUNK_SIZE: Final = 65_536


@frozen
class Message:
    """One whole request. Its bytes may contain credentials, and are not part of its repr."""

    verb: str
    target: bytes = field(repr=False)
    raw: bytes = field(repr=False)


async def read_request(stream: StreamReader) -> Message | None:
    """Return the next whole request, or None if the stream ends before it begins.

    Raises EOFError if the stream ends inside a request, and ValueError if the request is not HTTP/1.1.
    """
    raw = bytearray()
    try:
        head = await _read_head(stream, raw)
    except IncompleteReadError as end:
        if end.partial:
            raise
        return None
    await _read_body(stream, head, raw, until_end=False)
    verb, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
    return Message(verb.decode("latin-1"), target, bytes(raw))


async def read_reply(stream: StreamReader, verb: str, into: bytearray) -> None:
    """Read one whole reply to a `verb` request and append it to `into`.

    If the stream ends early, `into` holds the bytes that arrived. Raises EOFError then.
    """
    head = await _read_head(stream, into)
    while (status := head.split(b" ", 2)[1]).startswith(b"1"):
        head = await _read_head(stream, into)
    if verb != "HEAD" and status[:3] not in _WITHOUT_BODY:
        await _read_body(stream, head, into, until_end=True)


async def _read_head(stream: StreamReader, into: bytearray) -> bytes:
    try:
        head = await stream.readuntil(b"\r\n\r\n")
    except IncompleteReadError as end:
        into += end.partial
        raise
    into += head
    return head


async def _read_body(stream: StreamReader, head: bytes, into: bytearray, *, until_end: bool) -> None:
    fields = dict(_field(line) for line in head.split(b"\r\n")[1:] if b":" in line)
    if fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
        await _read_chunks(stream, into)
    elif b"content-length" in fields:
        await _read_exactly(stream, int(fields[b"content-length"]), into)
    elif until_end:
        while part := await stream.read(_CHUNK_SIZE):
            into += part


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


async def _read_chunks(stream: StreamReader, into: bytearray) -> None:
    size = 1
    while size:
        line = await stream.readuntil(b"\r\n")
        into += line
        size = int(line.split(b";")[0], 16)
        await _read_exactly(stream, size, into)
        into += await stream.readuntil(b"\r\n")  # after the last chunk: the empty line, or the first trailer
    while not into.endswith(b"\r\n\r\n"):
        into += await stream.readuntil(b"\r\n")


async def _read_exactly(stream: StreamReader, size: int, into: bytearray) -> None:
    while size:
        part = await stream.read(min(size, _CHUNK_SIZE))
        if not part:
            msg = f"the stream ended {size} bytes before the end of the body"
            raise EOFError(msg)
        into += part
        size -= len(part)
