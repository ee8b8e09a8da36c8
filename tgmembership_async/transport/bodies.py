"""What is taken of a body: no more than the cap, and a compression undone that nobody asked for."""

import zlib
from typing import Final

BODY_CAP: Final = 16 * 1024 * 1024
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


def decoded(body: bytes, encoding: str, *, truncated: bool) -> tuple[bytes, bool]:
    """Return `body` decompressed as far as the cap allows, and whether that is only its beginning.

    A body that is not what `encoding` says is left as it is.
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body, truncated
    decoder = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        plain = decoder.decompress(body, BODY_CAP)
    except zlib.error:
        return body, truncated
    return plain, truncated or not decoder.eof
