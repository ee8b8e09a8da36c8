"""How far the service's clock is from ours, as the `Date` header of its replies tells."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final

from attrs import frozen

from tgmembership_async.protocol.wire import Headers

MOST_BELIEVED: Final = timedelta(days=1)
"""A larger difference says that a Date is made up, not that a clock is wrong."""
_RESOLUTION: Final = timedelta(seconds=1)
_NOW: Final = partial(datetime.now, UTC)


@frozen
class Offset:
    """What has to be added to our time to get the service's: something from `least` to `most`."""

    least: timedelta
    most: timedelta


def http_date(value: str) -> datetime | None:
    """Return the moment that a header names, or None where it names none."""
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def offset_of(headers: Headers, sent: datetime, received: datetime) -> Offset | None:
    """Return the offset that a reply proves, or None where its `Date` is missing, cached or beyond belief.

    The service wrote the Date, in whole seconds, between our two moments.
    """
    date = http_date(headers.get("date") or "")
    if date is None or headers.get("age") is not None or received < sent:
        return None
    try:
        offset = Offset(date - received, date + _RESOLUTION - sent)
    except OverflowError:
        return None
    return offset if offset.least >= -MOST_BELIEVED and offset.most <= MOST_BELIEVED else None


class ServiceClock:
    """What the last reply with a Date said. It is read when somebody asks, for calls must not wait for that."""

    __slots__ = ("_last", "now")

    def __init__(self, now: Callable[[], datetime] = _NOW) -> None:
        self.now: Callable[[], datetime] = now
        self._last: tuple[Headers, datetime, datetime] | None = None

    def learn(self, headers: Headers, sent: datetime) -> None:
        """Take down a reply that came just now."""
        if headers.get("date") is not None:
            self._last = headers, sent, self.now()

    @property
    def offset(self) -> Offset | None:
        """Return the offset, or None as long as no reply told it."""
        return None if self._last is None else offset_of(*self._last)
