"""An inbox in PostgreSQL: any number of processes receive into it, and each delivery is handed to one of them."""

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final, Self

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.lifecycle import Lived
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.liveness import ALIVE, WorkersStorage
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.storage.text import storable
from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Receipt, Verdict
from tgmembership_async.webhooks.signature import Delivery

_DELIVERY: Final = """
    CREATE TABLE tgm_delivery (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest bytea NOT NULL UNIQUE,
        status text NOT NULL CHECK (
            status IN ('stored', 'processing', 'done', 'dead', 'repeat', 'unreadable')
        ),
        name text CHECK (name IS NOT NULL OR status <> 'done'),
        fingerprint text,
        signed_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        nonce text NOT NULL,
        body bytea NOT NULL,
        attempts integer NOT NULL DEFAULT 0 CHECK (attempts > 0 OR status NOT IN ('processing', 'dead')),
        due_at timestamptz CHECK ((due_at IS NOT NULL) = (status = 'stored')),
        handled text NOT NULL DEFAULT '[]',
        note text NOT NULL,
        worker integer CHECK (worker IS NOT NULL OR status <> 'processing'), -- who took it last
        claim bigint -- and by which of that worker's claims
    )
"""
_PURGED: Final = """
    CREATE TABLE tgm_delivery_purged ( -- what is left of a delivery, to know it or its event when it comes again
        digest bytea PRIMARY KEY,
        status text NOT NULL CHECK (status IN ('done', 'repeat', 'unreadable')),
        fingerprint text, -- NULL for what was never handled
        received_at timestamptz NOT NULL
    )
"""
INBOX: Final = Component(
    "inbox",
    (
        (
            _DELIVERY,
            "CREATE INDEX tgm_delivery_due ON tgm_delivery (due_at, id) WHERE status = 'stored'",
            "CREATE INDEX tgm_delivery_in_hand ON tgm_delivery (worker) WHERE status = 'processing'",
            "CREATE INDEX tgm_delivery_of_event ON tgm_delivery (fingerprint, received_at)",
        ),
        (
            _PURGED,
            "CREATE INDEX tgm_delivery_purged_event ON tgm_delivery_purged (fingerprint, received_at)",
        ),
    ),
)
_COLUMNS: Final = (
    "id, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, handled, note"
)
_INSERT: Final = """
    INSERT INTO tgm_delivery (digest, status, name, fingerprint, signed_at, received_at, nonce, body, due_at, note)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (digest) DO NOTHING
"""
_FIND: Final = """
    SELECT status, received_at FROM tgm_delivery WHERE digest = %(digest)s
    UNION ALL SELECT status, received_at FROM tgm_delivery_purged WHERE digest = %(digest)s
"""
_LATELY: Final = """
    SELECT 1 FROM tgm_delivery WHERE fingerprint = %(same)s AND received_at > %(since)s AND status <> 'repeat'
    UNION ALL SELECT 1 FROM tgm_delivery_purged WHERE fingerprint = %(same)s AND received_at > %(since)s
    LIMIT 1
"""
_PURGE: Final = """
    WITH purged AS (
        DELETE FROM tgm_delivery WHERE received_at < %s AND status IN ('done', 'repeat', 'unreadable')
        RETURNING digest, status, fingerprint, received_at
    )
    INSERT INTO tgm_delivery_purged (digest, status, fingerprint, received_at)
    SELECT digest, status, CASE status WHEN 'done' THEN fingerprint END, received_at FROM purged
"""
_CLAIM: Final = f"""
    UPDATE tgm_delivery
    SET status = 'processing', attempts = attempts + 1, due_at = NULL, worker = %s, claim = %s
    WHERE id IN (
        SELECT id FROM tgm_delivery WHERE status = 'stored' AND due_at <= %s
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
    )
    RETURNING {_COLUMNS}
"""  # noqa: S608 - constants
_CLAIMED: Final = f"SELECT {_COLUMNS} FROM tgm_delivery WHERE status = 'processing' AND worker = %s AND claim = %s"  # noqa: S608 - constants
_RELEASE: Final = """
    UPDATE tgm_delivery SET status = 'stored', attempts = attempts - 1, due_at = received_at
    WHERE status = 'processing' AND worker = %s AND claim = ANY(%s)
"""
_TAKE_OVER: Final = f"""
    UPDATE tgm_delivery SET status = 'stored', due_at = received_at
    WHERE status = 'processing' AND worker NOT IN ({ALIVE})
"""  # noqa: S608 - constants
# The same verdict again is no error: it was committed, and then the connection was lost.
_SETTLE: Final = """
    UPDATE tgm_delivery SET status = %(status)s, handled = %(handled)s, note = %(note)s, due_at = %(due_at)s
    WHERE id = %(id)s AND status IN ('processing', %(status)s) AND worker = %(worker)s
"""


class PostgresInbox(Lived):
    """An Inbox in the database that `conninfo` names, which may hold a ledger too; any number of processes open it.

    What a process was handling when it died is handed to another one; so is, after 15 seconds, what one was handling
    that nobody can reach any more. The password in `conninfo` is shown nowhere. Raises StorageError where the server
    fails; it is tried for half a minute before.
    """

    @hides_arguments
    def __init__(self, conninfo: str | Secret) -> None:
        self._storage = WorkersStorage(conninfo, INBOX)
        self._numbers = count(1)
        self._worker: int | None = None
        self._doubtful: set[int] = set()

    def _shown(self) -> str:
        return f"<PostgresInbox at {self._storage.server}, {'open' if self.is_open else 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._storage.is_open

    async def open(self) -> Self:
        """Connect, create the tables or bring them up to date; what dead processes were handling is stored again.

        Raises UsageError and StorageError as `PostgresLedger.open` does.
        """
        await self._storage.open(self._look)
        return self

    async def aclose(self) -> None:
        """Finish what is being written, and disconnect; what is still being handled is stored again."""
        await self._storage.aclose()

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Keep a delivery, unless this very one is there; one whose event came in the last seconds is a repeat."""
        since = arrival.received_at - timedelta(seconds=repeat_window)
        return await self._storage.run(partial(_store, arrival=arrival, since=since))

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Take up to `limit` entries that are due to `processing`, the oldest first, counting an attempt for each."""
        number, life, again = next(self._numbers), self._storage.life, False

        def take(lane: Lane) -> list[Entry]:
            nonlocal again
            self._worker = life.secure()
            mine = (self._worker, number)
            rows = lane.execute(_CLAIMED, mine).fetchall() if again else []
            again = True
            rows = rows or lane.execute(_CLAIM, (*mine, now, limit)).fetchall()
            return sorted(map(_entry, rows), key=lambda entry: entry.id)

        try:
            return await self._storage.run(take)
        except StorageError:
            self._doubtful.add(number)
            raise

    async def settle(self, entry_id: int, verdict: Verdict) -> None:
        """Record what became of an entry that was claimed."""
        values = {
            "id": entry_id,
            "worker": self._worker,
            "status": verdict.status,
            "handled": json.dumps(sorted(verdict.handled)),
            "note": storable(verdict.note),
            "due_at": verdict.due_at,
        }
        if not await self._storage.run(lambda lane: lane.execute(_SETTLE, values).rowcount):
            msg = f"delivery {entry_id} is not being processed here: was this process taken for dead meanwhile?"
            raise UsageError(msg)

    async def next_due(self) -> datetime | None:
        """Return when the next entry is due, or None where nothing waits."""
        return await self._storage.run(_next_due)

    async def entries(
        self, status: Collection[EntryStatus] | None = None, *, after: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Return up to `limit` entries of these states, the oldest first, from behind the id `after`."""
        states = [str(one) for one in (EntryStatus if status is None else status)]
        return await self._storage.run(partial(_page, states=states, after=after, limit=limit))

    async def retry(self, entry_id: int) -> None:
        """Have a dead, unreadable or repeated entry handed out again, its attempts counted from 1.

        That takes up to a minute. Raises UsageError for an entry that is none of these.
        """
        await self._storage.run(partial(_retry, entry_id=entry_id))

    async def purge(self, received_before: datetime) -> int:
        """Delete what is done, repeated or unreadable and was received before then; return how many there were.

        A digest of each stays, so that it is known when it comes again.
        """
        return await self._storage.run(partial(_purge, before=received_before))

    def _look(self, lane: Lane) -> None:
        if self._doubtful and self._worker is not None:
            doubtful = tuple(self._doubtful)
            lane.execute(_RELEASE, (self._worker, list(doubtful)))
            self._doubtful.difference_update(doubtful)
        lane.execute(_TAKE_OVER.encode())


def _entry(row: tuple[Any, ...]) -> Entry:
    number, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, handled, note = (
        row
    )
    return Entry(
        id=number,
        status=EntryStatus(status),
        delivery=Delivery(signed_at.astimezone(UTC), nonce, body, digest.hex()),
        received_at=received_at.astimezone(UTC),
        name=name,
        fingerprint=fingerprint,
        attempts=attempts,
        due_at=None if due_at is None else due_at.astimezone(UTC),
        handled=frozenset(json.loads(handled)),
        note=note,
    )


def _store(lane: Lane, arrival: Arrival, since: datetime) -> Receipt:
    digest = bytes.fromhex(arrival.delivery.digest)
    with lane.transaction():
        # Two deliveries of one event take turns here, or neither would see the other.
        lane.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (arrival.fingerprint,))
        found = lane.execute(_FIND, {"digest": digest}).fetchone()
        if found is None:
            status = _status_of_new(lane, arrival, since)
            values = (
                *(digest, status, None if arrival.name is None else storable(arrival.name), arrival.fingerprint),
                *(arrival.delivery.signed_at, arrival.received_at, arrival.delivery.nonce, arrival.delivery.body),
                *(arrival.received_at if status is EntryStatus.STORED else None, storable(arrival.note)),
            )
            if lane.execute(_INSERT, values).rowcount:
                return Receipt(new=True, status=status)
            found = (status, None)  # an unreadable one, and this very moment twice
    # Received at this very microsecond it is this one: it was committed, and then the connection was lost.
    return Receipt(new=found[1] == arrival.received_at, status=EntryStatus(found[0]))


def _status_of_new(lane: Lane, arrival: Arrival, since: datetime) -> EntryStatus:
    if arrival.fingerprint is None:
        return EntryStatus.UNREADABLE
    same = lane.execute(_LATELY, {"same": arrival.fingerprint, "since": since}).fetchone()
    return EntryStatus.STORED if same is None else EntryStatus.REPEAT


def _next_due(lane: Lane) -> datetime | None:
    row = lane.execute("SELECT min(due_at) FROM tgm_delivery WHERE status = 'stored'").fetchone()
    return None if row is None or row[0] is None else row[0].astimezone(UTC)


def _page(lane: Lane, states: list[str], after: int, limit: int) -> list[Entry]:
    rows = lane.execute(
        f"SELECT {_COLUMNS} FROM tgm_delivery WHERE id > %s AND status = ANY(%s) ORDER BY id LIMIT %s".encode(),  # noqa: S608 - constants
        (after, states, limit),
    ).fetchall()
    return list(map(_entry, rows))


def _retry(lane: Lane, entry_id: int) -> None:
    changed = lane.execute(
        "UPDATE tgm_delivery SET status = 'stored', attempts = 0, due_at = received_at, worker = NULL, claim = NULL"
        " WHERE id = %s AND status IN ('dead', 'unreadable', 'repeat')",
        (entry_id,),
    )
    if changed.rowcount != 1:
        msg = f"there is no delivery {entry_id} that is dead, unreadable or a repeat"
        raise UsageError(msg)


def _purge(lane: Lane, before: datetime) -> int:
    return lane.execute(_PURGE, (before,)).rowcount
