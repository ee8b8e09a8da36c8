"""Read one JSON scalar as one Python value, leniently but exactly.

The service sends numbers as strings (documented) and as numbers (seen), so readers accept both. A reader raises nothing
but `Mismatch`. Its message names types, never a value, which may be a customer's token.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final, NoReturn

from tgmembership_async.values.duration import Duration
from tgmembership_async.values.secret import Secret

# Forty digits are enough for any amount, and exclude `int("9" * 10**6)` and `Decimal("1E+999999999")`.
DIGITS: Final = 40
LIMIT: Final = 10**DIGITS
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?")
_DAY_MONTH_YEAR: Final = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})")
_BOOLEANS: Final = {"0": False, "1": True, "false": False, "true": True}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = _EPOCH.replace(tzinfo=None)
_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    str: "a string",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    list: "an array",
    dict: "an object",
}


class Mismatch(ValueError):
    """The value at `path` is not accepted; `reason` says why."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"${self.path}: {self.reason}"

    def within(self, step: str) -> "Mismatch":
        """Return this mismatch with `step` in front of its path."""
        return Mismatch(self.reason, step + self.path)


def wrong_kind(value: object, wanted: str) -> Mismatch:
    """Return a Mismatch for a value of the wrong type."""
    return Mismatch(f"expected {wanted}, got {_KINDS.get(type(value), 'something else')}")


def integer(value: object) -> int:
    """Read an integer of at most forty digits from a number or a string of ASCII digits; booleans are rejected."""
    if isinstance(value, int) and not isinstance(value, bool):
        if -LIMIT < value < LIMIT:
            return value
    elif isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value)
    elif isinstance(value, (Decimal, float)):
        number = decimal(value)
        if number == (whole := int(number)):
            return whole
    raise wrong_kind(value, "a whole number")


def decimal(value: object) -> Decimal:
    """Read an exact number with at most forty digits on either side of the decimal point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(integer(value))
    if isinstance(value, (str, Decimal, float)) and _NUMBER.fullmatch(digits := str(value)):
        return Decimal(digits)
    raise wrong_kind(value, "a decimal number")


def boolean(value: object) -> bool:
    """Read true, false, 0, 1, or one of these as a string."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, str)):
        read = _BOOLEANS.get(value.lower() if isinstance(value, str) else str(integer(value)))
        if read is not None:
            return read
    raise wrong_kind(value, "a boolean")


def text(value: object) -> str:
    """Read a string, or a number as a string."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(integer(value))
    if isinstance(value, (Decimal, float)):
        return str(decimal(value))
    raise wrong_kind(value, "a string")


def secret(value: object) -> Secret:
    """Read a non-empty string as a Secret."""
    if isinstance(value, str) and value.strip():
        return Secret(value)
    raise wrong_kind(value, "a string")


def no_bytes(value: object) -> NoReturn:
    """Raise Mismatch: JSON has no bytes, and `bytes(10**9)` would allocate a gigabyte."""
    raise wrong_kind(value, "bytes, which JSON does not have")


def duration(value: object) -> Duration:
    """Read a duration; any text is accepted."""
    return Duration(text(value))


def timestamp(value: object) -> datetime:
    """Read a time as aware UTC; a time without a zone is taken as UTC (all of it assumed).

    Accepted are ISO 8601, `YYYY-MM-DD HH:MM:SS`, `DD.MM.YYYY`, and unix seconds as a number or numeric string. Zero is
    rejected, because such services use it for "never".
    """
    try:
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            return utc(_from_text(value))
        if (seconds := decimal(value)) > 0:
            return _EPOCH + _span(seconds)
    except (ValueError, OverflowError):
        pass
    raise wrong_kind(value, "a date or time")


def day(value: object) -> date:
    """Read the UTC date of a value that `timestamp` accepts."""
    return timestamp(value).date()


def _span(seconds: Decimal) -> timedelta:
    whole = int(seconds)
    if whole == seconds:
        return timedelta(seconds=whole)
    return timedelta(microseconds=int(Fraction(seconds) * 1_000_000))  # Decimal arithmetic may round


def _from_text(value: str) -> datetime:
    found = _DAY_MONTH_YEAR.fullmatch(value)
    if found is None:
        return datetime.fromisoformat(value)
    return datetime(int(found[3]), int(found[2]), int(found[1]), tzinfo=UTC)


def utc(when: datetime) -> datetime:
    """Return a time in UTC; a time without a zone is taken as UTC."""
    if when.tzinfo is UTC:
        return when
    return _EPOCH + (when - (_EPOCH if when.tzinfo else _NAIVE_EPOCH))  # replace() takes ten times as long on 3.11
