"""One JSON value to one Python value: lenient in, exact out.

The service sends numbers as strings (documented) and as numbers (seen), so everything here takes both. A reader raises
`Misfit` and nothing else; its message names kinds of values, never a value, for the value may be a customer's token.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final, NoReturn

from tgmembership_async.values.duration import Duration
from tgmembership_async.values.secret import Secret

# Forty digits hold every amount there is, and keep `int("9" * 10**6)` and `Decimal("1E+999999999")` out.
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


class Misfit(ValueError):
    """What stands at `path` is not what is wanted; `reason` says what is."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"${self.path}: {self.reason}"

    def within(self, step: str) -> "Misfit":
        """Return this misfit as seen from one level further out."""
        return Misfit(self.reason, step + self.path)


def unlike(value: object, wanted: str) -> Misfit:
    """Return the misfit of a value of another kind."""
    return Misfit(f"expected {wanted}, got {_KINDS.get(type(value), 'something else')}")


def integer(value: object) -> int:
    """Read a whole number of at most forty digits from a number or a string of ASCII digits; a boolean is none."""
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
    raise unlike(value, "a whole number")


def decimal(value: object) -> Decimal:
    """Read a number to its last digit, of at most forty of them on either side of the point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(integer(value))
    if isinstance(value, (str, Decimal, float)) and _NUMBER.fullmatch(digits := str(value)):
        return Decimal(digits)
    raise unlike(value, "a decimal number")


def boolean(value: object) -> bool:
    """Read true, false, 0, 1 and the strings of these."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, str)):
        read = _BOOLEANS.get(value.lower() if isinstance(value, str) else str(integer(value)))
        if read is not None:
            return read
    raise unlike(value, "a boolean")


def text(value: object) -> str:
    """Read a string, or a number as the string that the service may send it as."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(integer(value))
    if isinstance(value, (Decimal, float)):
        return str(decimal(value))
    raise unlike(value, "a string")


def secret(value: object) -> Secret:
    """Read a string that shall not show itself."""
    if isinstance(value, str) and value.strip():
        return Secret(value)
    raise unlike(value, "a string")


def no_bytes(value: object) -> NoReturn:
    """Refuse: JSON has no bytes, and `bytes(10**9)` is not what anybody meant."""
    raise unlike(value, "bytes, which JSON does not have")


def duration(value: object) -> Duration:
    """Read a duration; every text is one."""
    return Duration(text(value))


def moment(value: object) -> datetime:
    """Read a time as aware UTC; where the service gives no zone, UTC is meant (all of it assumed).

    Taken are ISO 8601, `YYYY-MM-DD HH:MM:SS`, `DD.MM.YYYY`, and unix seconds as a number or numeric string. Zero is
    nobody's date, but how such services write "never".
    """
    try:
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            return utc(_from_text(value))
        if (seconds := decimal(value)) > 0:
            return _EPOCH + _span(seconds)
    except (ValueError, OverflowError):
        pass
    raise unlike(value, "a date or time")


def day(value: object) -> date:
    """Read the day, in UTC, of what `moment` takes."""
    return moment(value).date()


def _span(seconds: Decimal) -> timedelta:
    whole = int(seconds)
    if whole == seconds:
        return timedelta(seconds=whole)
    return timedelta(microseconds=int(Fraction(seconds) * 1_000_000))  # Decimal's own arithmetic may round


def _from_text(value: str) -> datetime:
    found = _DAY_MONTH_YEAR.fullmatch(value)
    if found is None:
        return datetime.fromisoformat(value)
    return datetime(int(found[3]), int(found[2]), int(found[1]), tzinfo=UTC)


def utc(when: datetime) -> datetime:
    """Return a time in UTC, which is meant where there is no zone."""
    if when.tzinfo is UTC:
        return when
    return _EPOCH + (when - (_EPOCH if when.tzinfo else _NAIVE_EPOCH))  # replace() takes ten times as long on 3.11
