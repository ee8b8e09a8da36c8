"""Read a response body: up to the maximum size of its method, decompressed and converted to UTF-8."""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from typing import Final

from anyio import to_thread
from anyio.lowlevel import checkpoint

from tgmembership_async.protocol.wire import Headers, Response

_CHUNKS_AT_ONCE: Final = 64
_SLICE: Final = 64 * 1024
_ON_THE_LOOP: Final = 64 * 1024
_CHARSET: Final = re.compile(r";\s*charset\s*=\s*\"?([\w.:-]+)", re.ASCII | re.IGNORECASE)
_CHARSETS: Final = {"ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"} | {
    *("iso8859-1", "iso8859-15", "cp1251", "cp1252", "koi8-r")
}
"""Accepted charsets, by their Python names; some other codecs of Python are extremely slow."""


class Body:
    """The bytes of a body received so far, at most `limit`."""

    __slots__ = ("_chunks", "_limit", "_received", "is_too_long")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()
        self._chunks = 0
        self.is_too_long: bool = False

    def add(self, chunk: bytes) -> None:
        """Add a chunk; bytes beyond the limit are dropped."""
        self._received += chunk
        self._chunks += 1
        if len(self._received) > self._limit:
            self.is_too_long = True
            del self._received[self._limit :]

    async def pause(self) -> None:
        """Yield to the event loop after a number of chunks: reading buffered chunks does not yield by itself."""
        if not self._chunks % _CHUNKS_AT_ONCE:
            await checkpoint()

    async def response(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> Response:
        """Return the Response with this body, decoded."""
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])
        body = bytes(self._received)
        is_plain = headers.get("content-encoding") is None
        if is_plain and body.isascii() and 0 not in body:
            return Response(status, headers, body, truncated=self.is_too_long)
        if self._limit <= _ON_THE_LOOP or (is_plain and len(body) <= _ON_THE_LOOP):
            return self._decoded(status, headers, body)
        return await to_thread.run_sync(self._decoded, status, headers, body, abandon_on_cancel=True)

    def _decoded(self, status: int, headers: Headers, body: bytes) -> Response:
        body, truncated, flaw = decompressed(body, encodings(headers), self._limit, truncated=self.is_too_long)
        return Response(status, headers, in_utf_8(body, headers), truncated=truncated, flaw=flaw)


def encodings(headers: Headers) -> list[str]:
    """Return the content encodings in the order in which they were applied, from all such headers."""
    lines = ",".join([value for name, value in headers if name.lower() == "content-encoding"])
    names = [name.strip().lower() for name in lines.split(",")]
    return [name for name in names if name not in ("", "identity")]


def decompressed(
    body: bytes, applied: list[str], limit: int, *, truncated: bool = False
) -> tuple[bytes, bool, str | None]:
    """Return `body` decompressed, whether it is truncated, and a description of what is wrong with it, if anything.

    A body that is not in the named encoding stays as it is: a few servers declare plain JSON as compressed.
    """
    for name in reversed(applied):
        undo = _ENCODINGS.get(name)
        if undo is None:
            return body, truncated, f"the body has the content-encoding {name[:40]!r}, which is not supported"
        try:
            plain, too_long, whole = _joined(undo(body), limit)
        except (zlib.error, OSError):
            return body, truncated, f"the body is not valid {name}, as its content-encoding says"
        body, truncated = plain, truncated or too_long
        if not whole and not truncated:
            return body, False, f"the {name} body is incomplete"
    return body, truncated, None


def _joined(parts: Iterator[bytes], limit: int) -> tuple[bytes, bool, bool]:
    """Return at most `limit` decompressed bytes, whether there are more, and whether the data is complete."""
    plain = bytearray()
    try:
        for part in parts:
            plain += part
            if len(plain) > limit:
                return bytes(plain[:limit]), True, True
    except EOFError:
        return bytes(plain), False, False
    return bytes(plain), False, True


def _gunzip(body: bytes) -> Iterator[bytes]:
    """Yield the decompressed content of all gzip members."""
    with gzip.GzipFile(fileobj=BytesIO(body)) as file:
        while part := file.read1(_SLICE):
            yield part


def _inflate(body: bytes) -> Iterator[bytes]:
    """Yield the decompressed content of zlib data, as "deflate" means, or of raw deflate, as some servers send."""
    decoder = zlib.decompressobj()
    try:
        decoder.decompress(body[:2])
        part = decoder.decompress(body[2:], _SLICE)
    except zlib.error:
        decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        part = decoder.decompress(body, _SLICE)
    while part:
        yield part
        part = decoder.decompress(decoder.unconsumed_tail, _SLICE)
    if not decoder.eof:
        raise EOFError


_ENCODINGS: Final[Mapping[str, Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
}


def in_utf_8(body: bytes, headers: Headers) -> bytes:
    """Return text as UTF-8 without a byte order mark, decoded by the charset of its headers or detected as JSON.

    Valid UTF-8 is returned unchanged: a different charset in its headers is usually wrong.
    """
    text = body.removeprefix(codecs.BOM_UTF8)
    if 0 not in text and (text.isascii() or _is_utf_8(text)):
        return text
    try:
        return body.decode(_charset(headers) or json.detect_encoding(body)).encode()
    except (LookupError, UnicodeError):
        return body


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _charset(headers: Headers) -> str | None:
    named = _CHARSET.search(headers.get("content-type") or "")
    if named is None:
        return None
    name = codecs.lookup(named[1]).name
    return name if name in _CHARSETS else None
