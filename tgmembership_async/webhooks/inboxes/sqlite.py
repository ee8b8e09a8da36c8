"""An inbox in a SQLite file: what was answered with 200 survives the process, and is processed after it."""

import json
import os
import sqlite3
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Self

from tgmembership_async.errors import UsageError
from tgmembership_async.lifecycle import Lived
from tgmembership_async.storage.sqlite.database import Component, SqliteStorage
from tgmembership_async.storage.text import storable
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Receipt, Verdict
from tgmembership_async.webhooks.signature import Delivery

_DELIVERY: Final = """
    CREATE TABLE delivery (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        status TEXT NOT NULL CHECK (
            status IN ('stored', 'processing', 'done', 'dead', 'repeat', 'unreadable')
        ),
        name TEXT CHECK (name IS NOT NULL OR status <> 'done'),
        fingerprint TEXT,
        signed_at INTEGER NOT NULL, -- microseconds since 1970, UTC, as all times here
        received_at INTEGER NOT NULL,
        nonce TEXT NOT NULL,
        body BLOB NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= (status IN ('processing', 'dead'))),
        due_at INTEGER CHECK ((due_at IS NOT NULL) = (status = 'stored')),
        handled TEXT NOT NULL DEFAULT '[]',
        note TEXT NOT NULL
    ) STRICT
"""
_PURGED: Final = """
    CREATE TABLE delivery_purged ( -- what is left of a delivery, to know it or its event when it comes again
        digest BLOB PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('done', 'repeat', 'unreadable')),
        fingerprint TEXT, -- NULL for what was never handled
        received_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
"""
INBOX: Final = Component(
    "inbox",
    (
        (
            _DELIVERY,
            "CREATE INDEX delivery_due ON delivery (due_at) WHERE status = 'stored'",
            "CREATE INDEX delivery_of_event ON delivery (fingerprint, received_at)",
        ),
        (
            _PURGED,
            "CREATE INDEX delivery_purged_event ON delivery_purged (fingerprint, received_at)",
        ),
    ),
)
_COLUMNS: Final = (
    "id, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, handled, note"
)
_FIND: Final = """
    SELECT status FROM delivery WHERE digest = :digest
    UNION ALL SELECT status FROM delivery_purged WHERE digest = :digest
"""
_LATELY: Final = """
    SELECT 1 FROM delivery WHERE fingerprint = :same AND received_at > :since AND status <> 'repeat'
    UNION ALL SELECT 1 FROM delivery_purged WHERE fingerprint = :same AND received_at > :since
    LIMIT 1
"""
_FORGET: Final = """
    INSERT OR IGNORE INTO delivery_purged (digest, status, fingerprint, received_at)
    SELECT digest, status, CASE status WHEN 'done' THEN fingerprint END, received_at FROM delivery
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class SqliteInbox(Lived):
    """An Inbox in the file at `path`, which may be a ledger's file too. One process at a time owns it, and receives.

    With `owner=False` it opens beside a living owner to read, to retry and to purge. Whoever opens it as owner finds
    what a dead owner was processing stored again. Raises StorageError where the disk fails; nothing was kept then.

    `must_exist`, `restored` and `wait` are as those of a `SqliteLedger`; deliveries that a restored copy lacks are lost
    or come again, and are then processed again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        owner: bool = True,
        must_exist: bool = False,
        restored: bool = False,
        wait: float | None = None,
    ) -> None:
        self._storage = SqliteStorage(path, INBOX, owner=owner, must_exist=must_exist, restored=restored, wait=wait)

    def _shown(self) -> str:
        return f"<SqliteInbox at {self._storage.path}, {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._storage.is_open

    async def open(self) -> Self:
        """Open the file, for the owner a new one if need be. Raises UsageError where it is no inbox or has an owner."""
        await self._storage.open()
        if self._storage.owner:
            try:
                await self._storage.write(_take_over)
            except BaseException:
                await self._storage.aclose()
                raise
        return self

    async def aclose(self) -> None:
        """Finish what is being written, and let go of the file."""
        await self._storage.aclose()

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Keep a delivery, unless this very one is there; one whose event came in the last seconds is a repeat."""
        self._check_owner()
        since = arrival.received_at - timedelta(seconds=repeat_window)
        return await self._storage.write(partial(_store, arrival=arrival, since=since))

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Take up to `limit` entries that are due to `processing`, the oldest first, counting an attempt for each."""
        self._check_owner()
        return await self._storage.write(partial(_claim, limit=limit, now=now))

    async def settle(self, entry_id: int, verdict: Verdict) -> None:
        """Record what became of an entry that was claimed."""
        self._check_owner()
        await self._storage.write(partial(_settle, entry_id=entry_id, verdict=verdict))

    async def next_due(self) -> datetime | None:
        """Return when the next entry is due, or None where nothing waits."""
        return await self._storage.read(_next_due)

    async def entries(
        self, status: Collection[EntryStatus] | None = None, *, after: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Return up to `limit` entries of these states, the oldest first, from behind the id `after`."""
        states = tuple(EntryStatus if status is None else status)
        return await self._storage.read(partial(_page, states=states, after=after, limit=limit))

    async def retry(self, entry_id: int) -> None:
        """Have a dead, unreadable or repeated entry handed out again, its attempts counted from 1.

        Beside a living owner that takes up to a minute. Raises UsageError for an entry that is none of these.
        """
        await self._storage.write(partial(_retry, entry_id=entry_id))

    async def purge(self, received_before: datetime) -> int:
        """Delete what is done, repeated or unreadable and was received before then; return how many there were.

        A digest of each stays, so that it is known when it comes again.
        """
        return await self._storage.write(partial(_purge, before=received_before))

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the inbox as it is now to a new file (mode 0600), as `SqliteLedger.backup` does."""
        await self._storage.backup(path)

    def _check_owner(self) -> None:
        if not self._storage.owner:
            msg = "an inbox opened with owner=False is read and mended; only its owner receives"
            raise UsageError(msg)


def _number(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(number: int) -> datetime:
    return _EPOCH + number * _MICROSECOND


def _entry(row: tuple[Any, ...]) -> Entry:
    number, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, handled, note = (
        row
    )
    return Entry(
        id=number,
        status=EntryStatus(status),
        delivery=Delivery(_moment(signed_at), nonce, body, digest.hex()),
        received_at=_moment(received_at),
        name=name,
        fingerprint=fingerprint,
        attempts=attempts,
        due_at=None if due_at is None else _moment(due_at),
        handled=frozenset(json.loads(handled)),
        note=note,
    )


def _take_over(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE delivery SET status = 'stored', due_at = received_at WHERE status = 'processing'")


def _store(connection: sqlite3.Connection, arrival: Arrival, since: datetime) -> Receipt:
    digest = bytes.fromhex(arrival.delivery.digest)
    found = connection.execute(_FIND, {"digest": digest}).fetchone()
    if found is not None:
        return Receipt(new=False, status=EntryStatus(found[0]))
    status = _status_of_new(connection, arrival, since)
    received_at = _number(arrival.received_at)
    connection.execute(
        "INSERT INTO delivery (digest, status, name, fingerprint, signed_at, received_at, nonce, body, due_at, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            digest,
            status,
            None if arrival.name is None else storable(arrival.name),
            arrival.fingerprint,
            _number(arrival.delivery.signed_at),
            received_at,
            arrival.delivery.nonce,
            arrival.delivery.body,
            received_at if status is EntryStatus.STORED else None,
            storable(arrival.note),
        ),
    )
    return Receipt(new=True, status=status)


def _status_of_new(connection: sqlite3.Connection, arrival: Arrival, since: datetime) -> EntryStatus:
    if arrival.fingerprint is None:
        return EntryStatus.UNREADABLE
    same = {"same": arrival.fingerprint, "since": _number(since)}
    return EntryStatus.STORED if connection.execute(_LATELY, same).fetchone() is None else EntryStatus.REPEAT


def _claim(connection: sqlite3.Connection, limit: int, now: datetime) -> list[Entry]:
    due = "SELECT id FROM delivery WHERE status = 'stored' AND due_at <= ? ORDER BY due_at, id LIMIT ?"
    rows = connection.execute(
        "UPDATE delivery SET status = 'processing', attempts = attempts + 1, due_at = NULL"  # noqa: S608 - constants
        f" WHERE id IN ({due}) RETURNING {_COLUMNS}",
        (_number(now), limit),
    ).fetchall()
    return sorted(map(_entry, rows), key=lambda entry: entry.id)


def _settle(connection: sqlite3.Connection, entry_id: int, verdict: Verdict) -> None:
    due_at = None if verdict.due_at is None else _number(verdict.due_at)
    handled = json.dumps(sorted(verdict.handled))
    changed = connection.execute(
        "UPDATE delivery SET status = ?, handled = ?, note = ?, due_at = ? WHERE id = ? AND status = 'processing'",
        (verdict.status, handled, storable(verdict.note), due_at, entry_id),
    )
    if changed.rowcount != 1:
        msg = f"delivery {entry_id} is not being processed: is the file in use by something else?"
        raise UsageError(msg)


def _next_due(connection: sqlite3.Connection) -> datetime | None:
    [first] = connection.execute("SELECT min(due_at) FROM delivery WHERE status = 'stored'").fetchone()
    return None if first is None else _moment(first)


def _page(connection: sqlite3.Connection, states: tuple[EntryStatus, ...], after: int, limit: int) -> list[Entry]:
    marks = ", ".join("?" * len(states))
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM delivery WHERE id > ? AND status IN ({marks}) ORDER BY id LIMIT ?",  # noqa: S608 - marks
        (after, *states, limit),
    ).fetchall()
    return list(map(_entry, rows))


def _retry(connection: sqlite3.Connection, entry_id: int) -> None:
    changed = connection.execute(
        "UPDATE delivery SET status = 'stored', attempts = 0, due_at = received_at WHERE id = ?"
        " AND status IN ('dead', 'unreadable', 'repeat')",
        (entry_id,),
    )
    if changed.rowcount != 1:
        msg = f"there is no delivery {entry_id} that is dead, unreadable or a repeat"
        raise UsageError(msg)


def _purge(connection: sqlite3.Connection, before: datetime) -> int:
    old = "WHERE received_at < ? AND status IN ('done', 'repeat', 'unreadable')"
    connection.execute(f"{_FORGET} {old}", (_number(before),))
    return connection.execute(f"DELETE FROM delivery {old}", (_number(before),)).rowcount  # noqa: S608 - constants
