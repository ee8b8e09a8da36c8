"""Estimate the offset of the service's clock from the local clock, from the `Date` header of its replies."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from attrs import frozen

from tgmembership_async.protocol.wire import Headers

MAX_OFFSET: Final = timedelta(days=1)
"""A Date that differs by more is ignored: it is invalid, not the time of a wrong clock."""
_RESOLUTION: Final = timedelta(seconds=1)


@frozen
class Offset:
    """Bounds of the service's time minus the local time: between `least` and `most`."""

    least: timedelta
    most: timedelta


def http_date(value: str) -> datetime | None:
    """Return the time in a header, aware, or None if it is not an HTTP date."""
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def offset_of(headers: Headers, sent: datetime, received: datetime) -> Offset | None:
    """Return the bounds from one reply, or None if its `Date` is missing, from a cache, or off by over MAX_OFFSET.

    The service wrote the Date, in whole seconds, between the local times `sent` and `received`.
    """
    date = http_date(headers.get("date") or "")
    if date is None or headers.get("age") is not None or received < sent:
        return None
    try:
        offset = Offset(date - received, date + _RESOLUTION - sent)
    except OverflowError:
        return None
    return offset if offset.least >= -MAX_OFFSET and offset.most <= MAX_OFFSET else None


class ServiceClock:
    """Keeps the last reply with a Date. It is parsed by `offset` only, because parsing would slow down each call.

    `now` returns seconds since 1970: a datetime takes eight times as long.
    """

    __slots__ = ("_last", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now: Callable[[], float] = now
        self._last: tuple[Headers, float, float] | None = None

    def observe(self, headers: Headers, sent: float) -> None:
        """Keep the headers of a reply that was received now, if they have a Date."""
        if headers.get("date") is not None:
            self._last = headers, sent, self.now()

    @property
    def offset(self) -> Offset | None:
        """Return the offset from the last reply with a Date, or None if there is none."""
        if self._last is None:
            return None
        headers, sent, received = self._last
        return offset_of(headers, datetime.fromtimestamp(sent, UTC), datetime.fromtimestamp(received, UTC))
