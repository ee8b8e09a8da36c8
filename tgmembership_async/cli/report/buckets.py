"""Group figures of days into days, weeks, months or years. Pure."""

from collections.abc import Iterator, Mapping
from datetime import MAXYEAR, date, timedelta
from decimal import Decimal
from itertools import islice
from typing import Final, Literal, TypeVar, get_args

Unit = Literal["day", "week", "month", "year"]
K = TypeVar("K", bound=str)
V = TypeVar("V", int, Decimal)

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_MOST_DAYS: Final[tuple[tuple[int, Unit], ...]] = ((45, "day"), (420, "week"), (3_660, "month"))
"""Each unit with the number of days below which it is used, the shortest first."""
_MAX_BUCKETS: Final = 5_000
_DECEMBER: Final = 12


def unit_of(first: date, last: date) -> Unit:
    """Return the shortest unit that gives a readable number of buckets from the first day to the last."""
    for most, unit in _MOST_DAYS:
        if (last - first).days < most:
            return unit
    return "year"


def beginning(day: date, unit: Unit) -> date:
    """Return the first day of the bucket that has this day; weeks begin on Monday."""
    if unit == "week":
        return date.fromordinal(max(day.toordinal() - day.weekday(), 1))
    if unit == "day":
        return day
    return day.replace(day=1) if unit == "month" else day.replace(month=1, day=1)


def following(begin: date, unit: Unit) -> date | None:
    """Return the first day of the next bucket, or None after the last one that there can be."""
    if unit in {"day", "week"}:
        step = timedelta(days=1 if unit == "day" else 7)
        return begin + step if date.max - begin >= step else None
    if unit == "month" and begin.month < _DECEMBER:
        return begin.replace(month=begin.month + 1)
    return None if begin.year == MAXYEAR else date(begin.year + 1, 1, 1)


def label(begin: date, unit: Unit) -> str:
    """Return the name of a bucket: a date, `2026-11` or `2026`."""
    return begin.isoformat()[: {"month": 7, "year": 4}.get(unit)]


def bucketed(counts: Mapping[tuple[date, K], V], unit: Unit) -> dict[date, dict[K, V]]:
    """Return the sums of each bucket by key, in order, with the empty buckets between the first and the last.

    Empty buckets are left out if there would be thousands, as between an event dated 1970 and one of this week.
    """
    found: dict[date, dict[K, V]] = {}
    for (day, key), value in counts.items():
        bucket = found.setdefault(beginning(day, unit), {})
        bucket[key] = bucket[key] + value if key in bucket else value
    if not found:
        return {}
    every = list(islice(_between(min(found), max(found), unit), _MAX_BUCKETS + 1))
    return {begin: found.get(begin, {}) for begin in (every if len(every) <= _MAX_BUCKETS else sorted(found))}


def _between(first: date, last: date, unit: Unit) -> Iterator[date]:
    begin: date | None = first
    while begin is not None and begin <= last:
        yield begin
        begin = following(begin, unit)
