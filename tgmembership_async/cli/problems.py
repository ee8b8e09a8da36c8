"""Collect the failures of a long command by reason, and print them as a table if stderr is a terminal."""

import re
import sys
from collections import Counter
from typing import Final

from tgmembership_async.cli.grant_lines import COLOURS, why
from tgmembership_async.cli.output import note, note_table
from tgmembership_async.errors import TGMembershipError

_MOST: Final = 20
_OTHER: Final = "other reasons"
_VARIES: Final = re.compile(r"\b[0-9a-f]*[0-9][0-9a-f.:+-]*(?:[T ][0-9][0-9.:+-]*)?\b")
"""Numbers, times and ids, in which two texts of one reason differ."""


class Problems:
    """Counts by status and reason, each with the first ref; the number of reasons is limited, so memory is flat."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, ref: str, status: str, reason: TGMembershipError | str | None) -> None:
        """Count a row that did not end well."""
        text = reason if isinstance(reason, str) else why(reason)
        key = status, _VARIES.sub("#", text)
        if key not in self._counts and len(self._counts) >= _MOST:
            key, text = (status, _OTHER), _OTHER
        self._counts[key] += 1
        self._first.setdefault(key, (ref, text))

    def failed(self, ref: str, error: TGMembershipError) -> None:
        """Count a row whose step raised an error; without a table, print the error at once."""
        self.add(ref, "failed", error)
        if not sys.stderr.isatty():
            note(f"Error: {error}")

    @property
    def total(self) -> int:
        """Return the number of rows counted."""
        return self._counts.total()

    def show(self) -> None:
        """Print the table, the most frequent reason first."""
        if sys.stderr.isatty():
            rows = (key[:1] + self._first[key] + (count,) for key, count in self._counts.most_common())
            note_table(
                [{"count": count, "status": status, "reason": text, "first": ref} for status, ref, text, count in rows],
                COLOURS,
            )
