"""The counter of writes of a process beside the owner, or without one: it goes on counting where the owner stopped."""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.sqlite import generations
from tgmembership_async.storage.sqlite.generations import Generation, from_facts
from tgmembership_async.storage.sqlite.owner_lock import read_facts_of, write_facts_of


class GuestCounter:
    """Counts the changes of a process that opened a file with `owner=False`.

    An older copy that nobody has accepted yet is not counted: with enough changes it would no longer be behind.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._changes = connection.total_changes
        self._pending: Generation | None = None
        self._unwritten: Generation | None = None
        self._uncounted = False
        self._next = 0.0

    def count(self, connection: sqlite3.Connection) -> None:
        """Count the changes of a transaction, as a part of it."""
        self._pending = None
        if connection.total_changes == self._changes:
            return
        self._uncounted = True
        if time.monotonic() >= self._next:
            self._write(connection)
        self._changes = connection.total_changes

    def kept(self) -> None:
        """Note that the transaction is durable."""
        if self._pending is not None:
            self._unwritten, self._pending = self._pending, None
            self._uncounted = False
            self._next = time.monotonic() + generations.INTERVAL

    def write_lock_file(self) -> None:
        """Write the counter to the lock file, if it has changed.

        The owner may write there at the same time. Both write numbers that are durable in the database, so the lock
        file is never ahead of it, and the next write replaces a number that is behind.
        """
        if self._unwritten is not None:
            with suppress(OSError, UsageError):  # as for the owner, not worth failing for
                write_facts_of(self._path, self._unwritten.facts())
            self._unwritten = None

    def close(self, connection: sqlite3.Connection) -> None:
        """Count what was not counted yet."""
        if not self._uncounted:
            return
        with suppress(sqlite3.Error):
            connection.execute("BEGIN IMMEDIATE")
            self._write(connection)
            connection.execute("COMMIT")
            self.kept()
        self.write_lock_file()

    def _write(self, connection: sqlite3.Connection) -> None:
        inside, outside = generations.read(connection), from_facts(read_facts_of(self._path))
        if inside is None or (outside is not None and inside.is_behind(outside)):
            return
        self._pending = evolve(inside, number=inside.number + 1, written_at=generations.now())
        generations.store(connection, self._pending)
