"""Check the ids in a path. `memberships/extend` without an id is the whole project, so no id may be empty."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from tgmembership_async.errors import InvalidValue, UsageError

_USER: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_PATH: Final = re.compile(r"(?=.{1,300}$)[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*", re.ASCII)
_EVERYBODY: Final = "memberships/extend"
_SHORTEST_SEARCH: Final = 3
_MONEY: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,2})?", re.ASCII)


def check_user_id(name: str, value: object) -> str:
    """Return a user id, an int or digits, of at most 18 digits (documented), as text. Raises InvalidValue."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _USER.fullmatch(text):
        msg = f"{name} must be a Telegram user id of 1 to 18 digits, not {value!r:.80}"
        raise InvalidValue(msg)
    return text


def check_until(name: str, value: object) -> str:
    """Return a future time as ISO 8601 in UTC with milliseconds. Raises UsageError."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        msg = f"{name} must be a datetime with a time zone, not {value!r:.80}"
        raise UsageError(msg)
    if value <= datetime.now(UTC):
        msg = f"{name} must be in the future; remove_membership ends access now"
        raise UsageError(msg)
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_search(name: str, value: object) -> str:
    """Return a text of at least three characters (documented). Raises UsageError."""
    if not isinstance(value, str) or len(value.strip()) < _SHORTEST_SEARCH:
        msg = f"{name} must be a str of at least {_SHORTEST_SEARCH} characters; the service requires it (documented)"
        raise UsageError(msg)
    return value


def check_text(name: str, value: object) -> str:
    """Return a text that is not empty. Raises UsageError."""
    if not isinstance(value, str) or not value.strip():
        msg = f"{name} must be a str that is not empty, not {value!r:.80}"
        raise UsageError(msg)
    return value


def check_amount(name: str, value: object) -> Decimal:
    """Return an exact amount of money of at least 0 with at most two decimals. Raises UsageError."""
    plain = f"{value:f}" if isinstance(value, Decimal) else str(value) if isinstance(value, int | str) else ""
    if isinstance(value, bool) or not _MONEY.fullmatch(plain):
        msg = f"{name} must be a Decimal of at least 0 with at most two decimals, not {value!r:.80}"
        raise UsageError(msg)
    return Decimal(plain)


def check_path(path: object) -> str:
    """Return the path of a call by name, without slashes at its ends. Raises UsageError."""
    text = path.removeprefix("/") if isinstance(path, str) else ""
    if not _PATH.fullmatch(text):
        msg = f"path must have segments of letters, digits, '_', '-' and '.' with '/' between them, not {path!r:.80}"
        raise UsageError(msg)
    if text.lower() == _EVERYBODY:
        msg = "this path extends all memberships of the project: use extend_everybody(until, confirm=project_id)"
        raise UsageError(msg)
    return text
