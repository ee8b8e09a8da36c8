"""A moment as people type it: a date, a date with a time, or how long ago."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"([0-9]{1,6})([mhdw])")


def moment(text: str, now: datetime) -> datetime | None:
    """Return the moment that `text` names, aware, or None; what names no offset is in UTC, and `7d` is before now."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def option(_context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return the moment that an option names, or fail with examples: a callback for click."""
    found = None if value is None else moment(value, datetime.now(UTC))
    if value is not None and found is None:
        msg = f"{value!r} is no moment: say 2026-11-01, 2026-11-01T18:30+01:00, or 90m, 12h, 7d, 2w for so long ago"
        raise click.BadParameter(msg, param=parameter)
    return found
