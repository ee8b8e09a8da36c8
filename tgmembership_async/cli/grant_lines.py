"""A grant as one line of JSON. Tokens and links give access, so they are included only on request."""

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tgmembership_async.errors import RefConflict
from tgmembership_async.grants.model import Grant

CONFLICT = "conflict"
"""Printed in place of a status if the ledger has the ref for another plan or member."""
_MAX_REASON: Final = 80
COLOURS: Final[Mapping[str, str]] = {
    "granted": "green",
    "delivered": "blue",
    "refused": "red",
    "unknown": "yellow",
    "sending": "magenta",
    "planned": "cyan",
    "abandoned": "dim",
}
_LAST_OF_ONE_UNIT: Final = 0xFFFF


def status_of(grant: Grant) -> str:
    """Return a grant's status, or CONFLICT if its error is a RefConflict."""
    return CONFLICT if isinstance(grant.error, RefConflict) else grant.status.value


def columns(*, links: bool) -> tuple[str, ...]:
    """Return the keys of `fields_of`."""
    names = ("ref", "member_id", "plan_id", "status", "attempts", "error", "note", "updated_at")
    return (*names, "token", "link") if links else names


def fields_of(grant: Grant, *, links: bool) -> dict[str, Any]:
    """Return a grant as a row; `token` and `link` only with `links`."""
    row: dict[str, Any] = {
        "ref": grant.ref,
        "member_id": grant.member_id,
        "plan_id": grant.plan_id,
        "status": status_of(grant),
        "attempts": grant.attempts,
        "error": None if grant.error is None else str(grant.error),
        "note": grant.note,
        "updated_at": grant.updated_at,
    }
    if links:
        token = grant.token
        row |= {"token": None, "link": None} if token is None else {"token": token.token, "link": token.link}
    return row


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON: in Unicode if stdout is, with all that is not printable escaped."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, indent=indent, default=plain, ensure_ascii=not unicode)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= _LAST_OF_ONE_UNIT else json.dumps(char)[1:-1]


def plain(value: object) -> str:
    """Return a value that JSON has no type for as a string: a datetime in ISO 8601, a Decimal with all digits."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def why(error: BaseException | None) -> str:
    """Return the reason of an error in a few words, without the advice around it."""
    cause = getattr(error, "cause", None) or error
    text = str(cause.args[0]) if cause is not None and cause.args else ""
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 1]}…"
