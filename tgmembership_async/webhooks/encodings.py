"""The content coding of a delivery: none, or gzip. The signature is over the body without its coding (*assumed*).

aiohttp's server decodes a body before its handler is called, and ASGI servers do not. The rules here are those of
aiohttp, so that every server gives the same response.
"""

import zlib
from typing import Final

from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.headers import HeadersLike, flat

HEADER: Final = "content-encoding"
GZIP: Final = "gzip"
_GZIP_WITH_HEADER: Final = 16 + zlib.MAX_WBITS


def coding_of(headers: HeadersLike) -> str:
    """Return the content coding in lower case: "" for none, several as a list."""
    named = ", ".join(value.lower() for _, value in flat(headers, only=(HEADER,)))
    return "" if named == "identity" else named


def decoded(body: bytes, coding: str, limit: int) -> bytes | Answer:
    """Return the body without its coding, or the response if that is impossible or either has more than `limit` bytes.

    A body may consist of several gzip members. One that was cut is decoded as far as it goes: its signature is wrong.
    """
    if len(body) > limit:
        return answers.TOO_LARGE
    if not coding or not body:
        return body
    if coding != GZIP:
        return answers.UNKNOWN_CODING
    content = bytearray()
    while body:
        member = zlib.decompressobj(_GZIP_WITH_HEADER)
        try:
            content += member.decompress(body, limit + 1 - len(content))
        except zlib.error:
            return answers.CUT_SHORT
        if len(content) > limit:
            return answers.TOO_LARGE
        body = member.unused_data
    return bytes(content)
