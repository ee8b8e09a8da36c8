"""The duration of a plan, as the service writes it: `1 month`, `3 days`, `1 year`, `0`, `02.11.2021` (documented)."""

import re
from calendar import monthrange
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Final

from attrs import frozen

_SPAN: Final = re.compile(r"([0-9]{1,6})\s+(day|week|month|year)s?", re.IGNORECASE)
_END_DATE: Final = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})")
_MONTHS_AND_DAYS: Final = {"day": (0, 1), "week": (0, 7), "month": (1, 0), "year": (12, 0)}


@frozen
class Duration:
    """A plan's duration. Any text is accepted: how the service writes lifetime plans is not documented."""

    text: str

    @cached_property
    def span(self) -> tuple[int, int] | None:
        """Return months and days, `(0, 0)` for `0` (a trial, says one page), or None if the text has no span."""
        text = self.text.strip()
        if text == "0":
            return 0, 0
        found = _SPAN.fullmatch(text)
        if found is None:
            return None
        months, days = _MONTHS_AND_DAYS[found[2].lower()]
        return int(found[1]) * months, int(found[1]) * days

    @cached_property
    def end_date(self) -> date | None:
        """Return the date (day.month.year) on which all access to the plan ends, or None if the text has no date."""
        found = _END_DATE.fullmatch(self.text.strip())
        if found is None:
            return None
        day, month, year = map(int, found.groups())
        try:
            return date(year, month, day)
        except ValueError:
            return None

    def add_to(self, start: datetime) -> datetime | None:
        """Return the end of access that begins at `start`, or None if the text has neither a span nor a date.

        Months and years are calendar months: 31 January plus one month is the last day of February. On an end date,
        access ends at 00:00 in the zone of `start` (assumed). Raises OverflowError beyond the year 9999.
        """
        if self.end_date is not None:
            return datetime.combine(self.end_date, datetime.min.time(), start.tzinfo)
        if self.span is None:
            return None
        months, days = self.span
        return _add_months(start, months) + timedelta(days=days)

    def __str__(self) -> str:
        return self.text


def _add_months(start: datetime, months: int) -> datetime:
    years, month = divmod(start.month - 1 + months, 12)
    year, month = start.year + years, month + 1
    if year > date.max.year:
        msg = "the duration ends beyond the year 9999"
        raise OverflowError(msg)
    return start.replace(year=year, month=month, day=min(start.day, monthrange(year, month)[1]))
