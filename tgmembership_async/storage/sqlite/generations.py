"""A counter of writes, in the database file and in its lock file, by which an older copy is recognised.

The counter in the database file is durable before the one in the lock file is written. After a crash or a power cut the
database file is therefore equal or ahead, and only a replaced file is behind. The counter increases with the first
change after `INTERVAL` seconds, and when the file is closed. So a copy that only lacks changes of the last
`INTERVAL` before a crash is not recognized, unless the file was changed again since. Processes beside the owner
count on (`guest_counter`).
"""

import secrets
import shlex
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.sqlite.files import status
from tgmembership_async.storage.sqlite.owner_lock import OwnerLock
from tgmembership_async.storage.sqlite.schema import migrate

INTERVAL: Final = 1.0
_CLOSING_WAITS: Final = 1_000  # milliseconds to wait for readers; without the mark the next opening only checks more
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

GENERATIONS: Final = Component(
    "storage",
    (
        (
            """
            CREATE TABLE generation (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                file TEXT NOT NULL, -- drawn when the file was made; a copy has the same
                number INTEGER NOT NULL CHECK (number > 0),
                written_at INTEGER NOT NULL, -- microseconds since 1970, UTC, as all times here
                closed INTEGER NOT NULL CHECK (closed IN (0, 1)) -- by its owner, with nothing left to write
            ) STRICT
            """,
            """
            CREATE TABLE gap (
                id INTEGER PRIMARY KEY,
                begins INTEGER, -- NULL: nobody knows
                ends INTEGER NOT NULL,
                accepted_at INTEGER NOT NULL,
                held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1)) -- the ledger has looked through its rows
            ) STRICT
            """,
        ),
    ),
)


@frozen
class Gap:
    """A period whose writes a restored file lacks. All times are aware UTC; `begins` is None if it is unknown."""

    begins: datetime | None
    ends: datetime
    accepted_at: datetime

    def __contains__(self, moment: datetime) -> bool:
        return (self.begins is None or self.begins <= moment) and moment <= self.ends

    def __str__(self) -> str:
        return f"until {_shown(self.ends)}" if self.begins is None else f"{_shown(self.begins)} to {_shown(self.ends)}"


@frozen
class Generation:
    """The state of a file: `number` counts the changes of `file`, the last at `written_at`; `closed` by its owner."""

    file: str
    number: int
    written_at: datetime
    closed: bool

    def is_behind(self, outside: "Generation") -> bool:
        """Tell whether a file in this state is older than its lock file knows, or another one."""
        return self.file != outside.file or self.number < outside.number

    def facts(self) -> dict[str, Any]:
        """Return the fields for the lock file."""
        return {
            "file": self.file,
            "number": self.number,
            "written_at": self.written_at.isoformat(),
            "closed": self.closed,
        }


def from_facts(facts: Mapping[str, Any] | None) -> Generation | None:
    """Return the generation in a lock file, or None if it has none."""
    if facts is None:
        return None
    try:
        at = datetime.fromisoformat(facts["written_at"]).astimezone(UTC)
        return Generation(str(facts["file"]), int(facts["number"]), at, facts["closed"] is True)
    except (KeyError, TypeError, ValueError):
        return None


def check_there(path: Path, lock: OwnerLock, *, restored: bool) -> None:
    """Raise UsageError for a file that is missing or empty, and was not when it was last used."""
    outside = from_facts(lock.read_facts())
    found = status(path)
    if outside is None or restored or (found is not None and found.st_size):
        return
    msg = (
        f"{path} is {'missing' if found is None else 'empty'}, and was last written at {_shown(outside.written_at)}: "
        "put it back, because a new file has no grants and would send all again. To start a new file on purpose, "
        f"delete {path.name}.lock"
    )
    raise UsageError(msg)


class Generations:
    """The two counters of an open file, maintained by its owner."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: OwnerLock) -> None:
        self._path = path
        self._lock = lock
        self._inside = read(connection)
        self._outside = from_facts(lock.read_facts())
        self._gap: Gap | None = None
        self._pending: Generation | None = None
        self._unwritten: Generation | None = None
        self._changes = connection.total_changes
        self._uncounted = False
        self._is_changed = False
        self._next = 0.0

    @property
    def was_closed(self) -> bool:
        """Tell whether both counters agree that an owner closed the file and that nothing was written since."""
        return self._inside is not None and self._inside.closed and self._inside == self._outside

    def check(self, *, restored: bool) -> None:
        """Raise UsageError if the file is older than the lock file knows, unless the caller accepts a restored one."""
        inside, outside = self._inside, self._outside
        if outside is None or (inside is not None and not inside.is_behind(outside)):
            return
        same = inside is not None and inside.file == outside.file
        begins = inside.written_at if inside is not None and same else None
        if restored:
            self._gap = Gap(begins, outside.written_at + timedelta(seconds=INTERVAL), now())
            return
        what = "an older copy" if same or inside is None else "another file than the one that was used here before"
        since = "" if begins is None else f" at {_shown(begins)}"
        msg = (
            f"{self._path} is {what}: it was last written{since or ' at an unknown time'} and the file used here at "
            f"{_shown(outside.written_at)}, so the grants made in between would be sent again. "
            f"{_accept(self._path)}"
        )
        raise UsageError(msg)

    def count(self, connection: sqlite3.Connection) -> None:
        """Count the changes of a transaction, as a part of it."""
        self._pending = None
        if connection.total_changes == self._changes and self._gap is None:
            return
        if self._gap is not None or time.monotonic() >= self._next:
            self._pending = self._write(connection, closed=False, more=1)
        else:
            self._uncounted = True
        self._changes = connection.total_changes

    def kept(self) -> None:
        """Note that the transaction is durable."""
        if self._pending is None:
            return
        self._inside = self._unwritten = self._pending
        self._pending, self._gap = None, None
        self._uncounted, self._is_changed = False, True
        self._next = time.monotonic() + INTERVAL

    def write_lock_file(self, *, durable: bool = False) -> None:
        """Write the counter to the lock file, if it has changed."""
        if self._unwritten is not None:
            with suppress(OSError):  # not worth failing a grant for; the next write includes it
                self._lock.write_facts(self._unwritten.facts(), durable=durable)
                self._unwritten = None

    def close(self, connection: sqlite3.Connection) -> None:
        """Mark the file as closed, if it was changed."""
        if not (self._is_changed or self._uncounted):
            return
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA busy_timeout={_CLOSING_WAITS}")
            connection.execute("BEGIN IMMEDIATE")
            self._pending = self._write(connection, closed=True, more=int(self._uncounted))
            connection.execute("COMMIT")
            self.kept()
        self.write_lock_file(durable=True)

    def _write(self, connection: sqlite3.Connection, *, closed: bool, more: int) -> Generation:
        migrate(connection, self._path, GENERATIONS, owner=True)
        self._inside = read(connection)  # others count on, beside the owner
        new = evolve(self._next_generation(more), closed=closed)
        store(connection, new)
        if self._gap is not None:
            begins = None if self._gap.begins is None else _number(self._gap.begins)
            connection.execute(
                "INSERT INTO gap (begins, ends, accepted_at) VALUES (?, ?, ?)",
                (begins, _number(self._gap.ends), _number(self._gap.accepted_at)),
            )
        return new

    def _next_generation(self, more: int) -> Generation:
        if self._inside is None:
            known = 0 if self._outside is None else self._outside.number
            return Generation(secrets.token_hex(8), known + 1, now(), closed=False)
        if self._gap is not None and self._outside is not None:
            more += max(0, self._outside.number - self._inside.number)
        return evolve(
            self._inside, number=self._inside.number + more, written_at=now() if more else self._inside.written_at
        )


def gaps(connection: sqlite3.Connection, *, unheld: bool = False) -> list[Gap]:
    """Return the gaps of a file, the oldest first; with `unheld` only those that its ledger has not processed yet."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'gap'").fetchone():
        return []
    rows = connection.execute("SELECT begins, ends, accepted_at FROM gap WHERE held <= ? ORDER BY id", (not unheld,))
    return [Gap(None if a is None else _moment(a), _moment(b), _moment(c)) for a, b, c in rows.fetchall()]


def hold(connection: sqlite3.Connection) -> None:
    """Record that the ledger has processed the gaps."""
    connection.execute("UPDATE gap SET held = 1 WHERE held = 0")


def adopt(connection: sqlite3.Connection, found: Iterable[Gap]) -> None:
    """Add the gaps of another file whose rows, processed already, are copied into this one."""
    there = gaps(connection)
    connection.executemany(
        "INSERT INTO gap (begins, ends, accepted_at, held) VALUES (?, ?, ?, 1)",
        [
            (None if gap.begins is None else _number(gap.begins), _number(gap.ends), _number(gap.accepted_at))
            for gap in found
            if gap not in there
        ],
    )


def read(connection: sqlite3.Connection) -> Generation | None:
    """Return the generation in a file, or None if there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'generation'").fetchone():
        return None
    row = connection.execute("SELECT file, number, written_at, closed FROM generation").fetchone()
    return None if row is None else Generation(row[0], row[1], _moment(row[2]), bool(row[3]))


def store(connection: sqlite3.Connection, new: Generation) -> None:
    """Write the generation into the file."""
    connection.execute(
        "INSERT OR REPLACE INTO generation VALUES (1, ?, ?, ?, ?)",
        (new.file, new.number, _number(new.written_at), new.closed),
    )


def _accept(path: Path) -> str:
    command = f"tgmembership ledger accept-restore --ledger {shlex.quote(str(path))}"
    return f"Put the latest file back; if this one is meant to be here, run `{command}` or open it with restored=True"


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def _shown(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


def _number(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(number: int) -> datetime:
    return _EPOCH + number * _MICROSECOND
