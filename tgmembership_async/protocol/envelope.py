"""Parse the envelope `{"ok": bool, "code": int, "description"?: str, "result"?: any}` (documented). Never raises.

That is how the old platform replies; a Dialect says how another generation of the API does.
"""

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, cast

from attrs import field, frozen

from tgmembership_async.protocol import sliced_json
from tgmembership_async.protocol.reply_limits import holds_too_much

_EXCERPT: Final = 200
_CODE_DIGITS: Final = 9
_DECODER: Final = json.JSONDecoder(parse_float=Decimal)
_SPACE: Final = " \t\n\r"
_SCAN: Final = cast(
    "Callable[[str, int], tuple[Any, int]]",
    _DECODER.scan_once,  # type: ignore[attr-defined,unused-ignore]
)


@frozen
class Envelope:
    """The envelope of a reply. `code` is None if `ok` is true and the code is missing or invalid.

    `request_id` is sent by API v1 and v2, and `error_code` by v2 (documented); unknown keys are in `extra`.
    """

    ok: bool
    code: int | None
    result: Any = field(repr=False)
    description: str | None = None
    request_id: str | None = None
    extra: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    error_code: str | None = None


@frozen
class NoEnvelope:
    """The body is not the envelope; `why` is the reason."""

    why: str


@frozen
class Dialect:
    """One generation of the API: its path below the base URL, and the shape of its replies.

    `read` makes an envelope of a decoded JSON object. A reply with a status in `without_body` and no body means that
    the call is done. `meanings` are the documented meanings of a code, shown if an error has no description.
    """

    read: Callable[[dict[str, Any]], Envelope | NoEnvelope]
    without_body: frozenset[int] = frozenset()
    meanings: Mapping[int, str] = field(factory=dict[int, str])
    path: str = ""


def parse(body: bytes, dialect: Dialect | None = None) -> Envelope | NoEnvelope:
    """Parse a complete body; return NoEnvelope with the reason if it is not the envelope."""
    if not body.strip():
        return NoEnvelope("the body is empty")
    return _parsed(body, _load, dialect)


def parse_in_slices(body: bytes, pause: Callable[[], object], dialect: Dialect | None = None) -> Envelope | NoEnvelope:
    """Parse a large body as `parse` does, and call `pause` between slices of a few milliseconds."""
    if holds_too_much(body):
        return NoEnvelope("the JSON has too many values")
    return _parsed(body, lambda body: _load_in_slices(body, pause), dialect)


def _parsed(body: bytes, load: Callable[[bytes], object], dialect: Dialect | None) -> Envelope | NoEnvelope:
    try:
        json_value = load(body)
        if not isinstance(json_value, dict):
            return NoEnvelope("the JSON is not an object")
        return (dialect or LEGACY).read(cast("dict[str, Any]", json_value))
    except RecursionError:
        return NoEnvelope("the JSON is nested too deeply")
    except ValueError:  # also bad UTF-8
        return NoEnvelope("the body is not JSON")


def _load(body: bytes) -> object:
    """Decode JSON. Numbers that Python rejects stay strings: they must not hide an `ok: true` beside them."""
    try:
        text = body.decode()
        value, end = _SCAN(text, 0)  # `decode` takes twice as long for a small body: it looks for white space first
        return _DECODER.decode(text) if text[end:].strip(_SPACE) else value
    except (ValueError, ArithmeticError, StopIteration):
        return _LENIENT.decode(_text_of(body))


def _load_in_slices(body: bytes, pause: Callable[[], object]) -> object:
    text = _text_of(body)
    try:
        return sliced_json.load(text, _DECODER, pause)
    except (ValueError, ArithmeticError):
        return sliced_json.load(text, _LENIENT, pause)


def _text_of(body: bytes) -> str:
    return body.decode(json.detect_encoding(body), "surrogatepass")


def _number(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, ArithmeticError):
            return text

    return number


_LENIENT: Final = json.JSONDecoder(parse_float=_number(Decimal), parse_int=_number(int))


def _read(reply: dict[str, Any]) -> Envelope | NoEnvelope:
    ok = reply.pop("ok", None)
    if not isinstance(ok, bool):
        return NoEnvelope("'ok' is not true or false")
    code = read_code(reply.pop("code", None))
    if code is None and not ok:
        return NoEnvelope("'code' is not a number")
    result = reply.pop("result", None)
    if not reply:  # as nearly all replies
        return Envelope(ok, code, result)
    return Envelope(
        ok=ok,
        code=code,
        result=result,
        description=read_text(reply.pop("description", None)),
        request_id=read_text(reply.pop("request_id", None)),
        extra=reply,
    )


LEGACY: Final = Dialect(_read)
V1: Final = Dialect(
    _read,
    frozenset({204, 304}),
    {401: "API v1 documents three reasons: no live payment method, test mode is on, or the policy for access tokens"},
    path="/v1",
)
"""Replies of API v1 (documented): legacy's, and some without a body."""


def read_code(value: object) -> int | None:
    """Accept an int or a numeric string (the latter *assumed*) of up to nine digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _CODE_DIGITS:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_CODE_DIGITS:
        return value
    return None


def read_text(value: object) -> str | None:
    """Return a value as one printable line, or None if there is none."""
    return None if value is None else printable(value if isinstance(value, str) else repr(value))


def printable(text: str, limit: int = 1_000) -> str:
    """Return `text` as one printable line of at most `limit` characters."""
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in shown)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def excerpt(body: bytes) -> str:
    """Return the first 200 characters of a body, as one printable line."""
    return printable(body[: 4 * _EXCERPT].decode(errors="replace"), _EXCERPT)
