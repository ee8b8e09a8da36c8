"""An inbox in a SQLite file."""

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.storage.sqlite.binding import BINDING, binding_table
from tgmembership_async.storage.sqlite.bulk_statements import insert_rows, select_rows
from tgmembership_async.storage.sqlite.database import Component, SqliteStorage
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Receipt
from tgmembership_async.webhooks.inboxes.database import COLUMNS, DatabaseInbox, Dialect, status_of_new

T = TypeVar("T")
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
    CREATE TABLE delivery_purged ( -- recognises a purged delivery, or its event, when it is sent again
        digest BLOB PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('done', 'repeat', 'unreadable')),
        fingerprint TEXT, -- NULL if the delivery was never handled
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
        (binding_table("inbox"),),
        ("ALTER TABLE delivery ADD COLUMN waits INTEGER NOT NULL DEFAULT 0 CHECK (waits >= 0)",),
    ),
)
_FIND: Final = """
    WITH arrival (number, digest, fingerprint, since) AS (VALUES)
    SELECT
        number,
        coalesce(
            (SELECT status FROM delivery WHERE digest = arrival.digest),
            (SELECT status FROM delivery_purged WHERE digest = arrival.digest)
        ) AS known,
        EXISTS (
            SELECT 1 FROM delivery
            WHERE fingerprint = arrival.fingerprint AND received_at > since AND status <> 'repeat'
            UNION ALL
            SELECT 1 FROM delivery_purged WHERE fingerprint = arrival.fingerprint AND received_at > since
        ) AS is_repeat
    FROM arrival WHERE known IS NOT NULL OR is_repeat
"""
_CLAIM: Final = f"""
    UPDATE delivery SET status = 'processing', attempts = attempts + 1, due_at = NULL
    WHERE id IN (SELECT id FROM delivery WHERE status = 'stored' AND due_at <= ? ORDER BY due_at, id LIMIT ?)
    RETURNING {COLUMNS}
"""  # noqa: S608 - constants
_TAKE_OVER: Final = "UPDATE delivery SET status = 'stored', due_at = received_at WHERE status = 'processing'"
_OLD: Final = "WHERE received_at < :before AND status IN ('done', 'repeat', 'unreadable')"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


class SqliteInbox(DatabaseInbox[SqliteStorage]):
    """An Inbox in the file at `path`, which may also hold a ledger. One process at a time owns the file and receives.

    With `owner=False` a process opens the file beside the owner, to read, to retry and to purge. A new owner stores
    again the entries that the previous owner was processing. Raises StorageError if the disk fails; the change was not
    made then.

    `must_exist`, `restored` and `wait` have the same meaning as in `SqliteLedger`. Deliveries that are missing in a
    restored copy are lost, unless the service sends them again; then they are processed again.

    With a `bot_id` an inbox of another bot is refused at opening, and one that belongs to no bot is bound to this one.
    """

    _dialect = Dialect(
        next_due="SELECT min(due_at) FROM delivery WHERE status = 'stored'",
        page=f"""
            SELECT {COLUMNS} FROM delivery WHERE id > :after AND status IN (SELECT value FROM json_each(:states))
            ORDER BY id LIMIT :limit
        """,  # noqa: S608 - constants
        retry="""
            UPDATE delivery SET status = 'stored', attempts = 0, waits = 0, due_at = received_at,
                note = coalesce(:note, note)
            WHERE id = :id AND status IN ('dead', 'unreadable', 'repeat')
        """,
        drop="UPDATE delivery SET status = 'done', note = :note WHERE id = :id AND status = 'dead'",
        settle="""
            UPDATE delivery SET status = :status, handled = :handled, due_at = :due_at,
                attempts = coalesce(:attempts, attempts), waits = coalesce(:waits, waits),
                note = CASE WHEN :note = '' AND note LIKE :replayed THEN note ELSE :note END
            WHERE id = :id AND status = 'processing'
        """,
        purge=(
            f"""
            INSERT OR IGNORE INTO delivery_purged (digest, status, fingerprint, received_at)
            SELECT digest, status, CASE status WHEN 'done' THEN fingerprint END, received_at FROM delivery {_OLD}
            """,  # noqa: S608 - constants
            f"DELETE FROM delivery {_OLD}",  # noqa: S608 - constants
        ),
        binding_table=BINDING,
        stored_time=_microseconds,
        loaded_time=lambda number: _EPOCH + number * _MICROSECOND,
        stored_list=json.dumps,
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        owner: bool = True,
        must_exist: bool = False,
        restored: bool = False,
        wait: float | None = None,
        bot_id: int | None = None,
    ) -> None:
        self._bot_id = None if bot_id is None else check_id("bot_id", bot_id)
        self._storage = SqliteStorage(path, INBOX, owner=owner, must_exist=must_exist, restored=restored, wait=wait)
        self._where = self._storage.path

    def _shown(self) -> str:
        return f"<SqliteInbox at {self._storage.path}, {'open' if self.is_open else 'not open'}>"

    async def open(self) -> Self:
        """Open the file; the owner creates the file if it does not exist.

        Raises UsageError if the file is not an inbox, is the inbox of another bot, or if another process owns it.
        """
        await self._storage.open()
        await self._bind_at_opening(record=self._storage.owner)
        if self._storage.owner:
            try:
                await self._storage.write(lambda connection: connection.execute(_TAKE_OVER))
            except BaseException:
                await self._storage.aclose()
                raise
        return self

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Store a delivery as `DatabaseInbox.store` does, together with others that arrive at the same time."""
        self._check_receives()
        since = arrival.received_at - timedelta(seconds=repeat_window)
        return await self._storage.write_together(self._store_all, (arrival, since))

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Change at most `limit` due entries to `processing`, oldest first, count an attempt for each, return them."""
        due = (_microseconds(now), limit)
        rows = await self._write(lambda connection: connection.execute(_CLAIM, due).fetchall(), receives=True)
        return self._loaded(rows)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the inbox as it is now to a new file (mode 0600), as `SqliteLedger.backup` does."""
        await self._storage.backup(path)

    async def _read(self, job: Callable[[Any], T]) -> T:
        return await self._storage.read(job)

    async def _write(self, job: Callable[[Any], T], *, receives: bool = False) -> T:
        if receives:
            self._check_receives()
        return await self._storage.write(job)

    def _check_receives(self) -> None:
        if not self._storage.owner:
            msg = "an inbox opened with owner=False can be read, retried and purged; only its owner receives"
            raise UsageError(msg)

    def _store_all(self, connection: sqlite3.Connection, together: Sequence[tuple[Arrival, datetime]]) -> list[Receipt]:
        digests = {arrival.delivery.digest for arrival, _ in together}
        events = {arrival.fingerprint or arrival.delivery.digest for arrival, _ in together}
        if len(digests) == len(events) == len(together):
            return self._store_different(connection, together)
        return [receipt for one in together for receipt in self._store_different(connection, [one])]

    def _store_different(
        self, connection: sqlite3.Connection, together: Sequence[tuple[Arrival, datetime]]
    ) -> list[Receipt]:
        """Store deliveries of different events."""
        keys = [
            (number, bytes.fromhex(arrival.delivery.digest), arrival.fingerprint, _microseconds(since))
            for number, (arrival, since) in enumerate(together)
        ]
        found = {number: (known, bool(repeats)) for number, known, repeats in select_rows(connection, _FIND, keys)}
        receipts: list[Receipt] = []
        rows: list[dict[str, Any]] = []
        for number, (arrival, _) in enumerate(together):
            known, is_repeat = found.get(number, (None, False))
            status = status_of_new(arrival, is_repeat=is_repeat) if known is None else EntryStatus(known)
            if known is None:
                rows.append(self._row_of_new(arrival, status))
            receipts.append(Receipt(new=known is None, status=status))
        if rows:
            insert_rows(connection, f"delivery ({', '.join(rows[0])})", [tuple(row.values()) for row in rows])
        return receipts
