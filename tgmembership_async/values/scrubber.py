"""Mask secrets in text and bytes from other sources, whatever their encoding or escapes. Pure functions."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape
from typing import Final

_HTML: Final = {escape(char).encode(): char.encode() for char in "&<>\"'"} | {b"&#39;": b"'"}
_JSON: Final = re.compile(rb"\\+u([0-9A-Fa-f]{4})")
_BACKSLASHED: Final = re.compile(rb"\\+([/\"'\\])")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_.~/-]+")
_NESTED_AT_MOST: Final = 3
_GAPS: Final = (b"\0", b"\0\0\0")
"""The bytes between two ASCII characters in UTF-16 and in UTF-32."""


class Scrubber:
    r"""Replace secrets by their masks; `masks` maps each secret to its mask.

    A secret is found in UTF-8, UTF-16 and UTF-32, and with any of its characters escaped as in a URL (`%43`), in JSON
    (`\u0043`, `\/`) or in HTML, with up to three levels of escapes. Input without secrets is returned as the same
    object, after one search for each secret and each kind of escape.
    """

    __slots__ = ("__weakref__", "_is_plain", "_json", "_marks", "_masks", "_percent")

    def __init__(self, masks: Mapping[str, str]) -> None:
        longest_first = sorted(filter(None, masks), key=len, reverse=True)
        self._masks = {_bytes(secret): _bytes(masks[secret]) for secret in longest_first}
        self._is_plain = all(map(_PLAIN.fullmatch, self._masks))
        is_ascii = all(secret.isascii() for secret in self._masks)
        # Only escapes of bytes that occur in a secret, or begin an escape, matter: replies contain many others.
        digits = _any_hex({*b"".join(self._masks), *b"%\\&"})
        self._percent: re.Pattern[bytes] = re.compile(rb"%%(%b)" % digits)
        self._json: re.Pattern[bytes] = re.compile(rb"\\+u(00(?:%b))" % digits) if is_ascii else _JSON
        shortest = (one for one in self._masks if not any(other in one for other in self._masks if other != one))
        plain = tuple(shortest)
        self._marks = (*plain, *_marks(b"".join(plain), is_ascii=is_ascii))

    def __repr__(self) -> str:
        return f"<Scrubber of {len(self._masks)} secret(s)>"

    def scrub(self, data: bytes) -> bytes:
        """Return the bytes with all secrets masked; the same object if there are none."""
        for mark in self._marks:
            if data.find(mark) >= 0:  # `in` first tries to take `mark` as an int, which takes longer than the search
                return self._scrub_escapes(data)
        return data

    def scrub_text(self, text: str) -> str:
        """Return the text with all secrets masked; the same object if there are none."""
        data = _bytes(text)
        clean = self.scrub(data)
        return text if clean is data else clean.decode(errors="surrogatepass")

    def _scrub_escapes(self, data: bytes) -> bytes:
        for secret, mask in self._masks.items():
            data = data.replace(secret, mask)
        # A secret that contains the start of an escape may itself be changed by unescaping, and then not be found.
        if self._is_plain and not self._is_hidden_in(data):
            return data
        for secret, mask in self._masks.items():
            for gap in _GAPS:
                data = data.replace(_with_gaps(secret, gap), _with_gaps(mask, gap))
            data = mask.join(_pattern(secret).split(data))
        if not self._is_hidden_in(data):
            return data
        # Nested escapes: return the unescaped text, which can be masked.
        data = self._unescaped(data)
        for secret, mask in self._masks.items():
            data = data.replace(secret, mask)
        return data

    def _is_hidden_in(self, data: bytes) -> bool:
        unescaped = self._unescaped(data)
        return any(secret in unescaped for secret in self._masks)

    def _unescaped(self, data: bytes) -> bytes:
        for _ in range(_NESTED_AT_MOST):
            before, data = data, data.replace(b"\0", b"")
            data = self._percent.sub(_byte, data)
            data = self._json.sub(_character, data)
            data = _BACKSLASHED.sub(rb"\1", data)
            if b"&" in data:
                for entity, char in _HTML.items():
                    data = data.replace(entity, char)
            if data == before:
                break
        return data


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def _character(match: re.Match[bytes]) -> bytes:
    return _bytes(chr(int(match[1], 16)))


def _marks(secrets: bytes, *, is_ascii: bool) -> Iterable[bytes]:
    """Yield bytes that every escaped secret contains, and that are rare in replies."""
    yield from (b"\0", b"%", b"u00" if is_ascii else b"\\u")
    if any(char in secrets for char in b"/\"'\\"):
        yield b"\\"
    if any(char in secrets for char in b"&<>\"'"):
        yield b"&"


def _with_gaps(text: bytes, gap: bytes) -> bytes:
    return gap.join(bytes((byte,)) for byte in text)


@lru_cache(maxsize=64)
def _pattern(secret: bytes) -> re.Pattern[bytes]:
    return re.compile(b"".join(map(_spellings, secret.decode(errors="surrogatepass"))))


def _spellings(char: str) -> bytes:
    """Return a pattern of one character, escaped once or plain: in that order, as an escape begins with a character."""
    plain = _bytes(char)
    in_url = b"".join(b"%%(?:25)*%b" % _hex(byte) for byte in plain)
    units = char.encode("utf-16-be", "surrogatepass")
    in_json = b"".join(
        rb"\\+u%b%b" % (_hex(high), _hex(low)) for high, low in zip(units[::2], units[1::2], strict=True)
    )
    in_html = [re.escape(entity) for entity, char in _HTML.items() if char == plain]
    return b"(?:%b)" % b"|".join([*in_html, in_url, in_json, rb"\\*" + re.escape(plain)])


def _any_hex(some: set[int]) -> bytes:
    """Return a pattern of the two hex digits of any of these bytes; one branch per first digit, for speed."""
    branches: dict[int, bytes] = {}
    for byte in sorted(some):
        branches[byte >> 4] = branches.get(byte >> 4, b"") + b"%x%X" % (byte & 15, byte & 15)
    return b"|".join(b"[%x%X][%b]" % (high, high, low) for high, low in branches.items())


def _hex(byte: int) -> bytes:
    """Return a pattern of the two hex digits of a byte, in either case."""
    return b"".join(b"[%b%b]" % (digit.upper().encode(), digit.encode()) for digit in f"{byte:02x}")
