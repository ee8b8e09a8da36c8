"""Parse arguments of time: a duration; a date, a date with a time, or a duration before now."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def parse_time(text: str, now: datetime) -> datetime | None:
    """Return `text` as an aware datetime, or None. Without an offset it is UTC; `7d` is seven days before `now`."""
    try:
        if (ago := parse_duration(text)) is not None:
            return now - ago
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def parse_duration(text: str) -> timedelta | None:
    """Return `text`, such as 90m, 12h, 7d or 2w, as a duration, or None."""
    found = _AGO.fullmatch(text)
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})


def duration_option(_context: click.Context, parameter: click.Parameter, value: str | None) -> timedelta | None:
    """Return the duration of an option. A click callback; raises BadParameter with examples."""
    found = None if value is None else parse_duration(value)
    if value is not None and found is None:
        msg = f"{value!r} is not a duration: use 90m, 12h, 7d or 2w"
        raise click.BadParameter(msg, param=parameter)
    return found


def option(_context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return the time of an option as an aware datetime. A click callback; raises BadParameter with examples."""
    found = None if value is None else parse_time(value, datetime.now(UTC))
    if value is not None and found is None:
        msg = f"{value!r} is not a time: use 2026-11-01, 2026-11-01T18:30+01:00, or 90m, 12h, 7d, 2w before now"
        raise click.BadParameter(msg, param=parameter)
    return found
