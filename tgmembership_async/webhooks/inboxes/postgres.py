"""An inbox in PostgreSQL: several processes receive into it, and each delivery is handed to one of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeVar

from tgmembership_async.errors import StorageError
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.binding import BINDING, binding_table
from tgmembership_async.storage.postgres.liveness import ALIVE, WorkersStorage
from tgmembership_async.storage.postgres.server import Lane
from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Receipt
from tgmembership_async.webhooks.inboxes.database import COLUMNS, DatabaseInbox, Dialect, status_of_new

T = TypeVar("T")
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
        worker integer CHECK (worker IS NOT NULL OR status <> 'processing'), -- the last worker that claimed it
        claim bigint -- the number of that worker's claim
    )
"""
_PURGED: Final = """
    CREATE TABLE tgm_delivery_purged ( -- recognises a purged delivery, or its event, when it is sent again
        digest bytea PRIMARY KEY,
        status text NOT NULL CHECK (status IN ('done', 'repeat', 'unreadable')),
        fingerprint text, -- NULL if the delivery was never handled
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
        (binding_table("inbox"),),
        ("ALTER TABLE tgm_delivery ADD COLUMN waits integer NOT NULL DEFAULT 0 CHECK (waits >= 0)",),
    ),
)
_INSERT: Final = """
    INSERT INTO tgm_delivery (digest, status, name, fingerprint, signed_at, received_at, nonce, body, due_at, note)
    VALUES (%(digest)s, %(status)s, %(name)s, %(fingerprint)s, %(signed_at)s, %(received_at)s, %(nonce)s, %(body)s,
        %(due_at)s, %(note)s)
    ON CONFLICT (digest) DO NOTHING
"""
_FIND: Final = """
    SELECT status, received_at FROM tgm_delivery WHERE digest = %(digest)s
    UNION ALL SELECT status, received_at FROM tgm_delivery_purged WHERE digest = %(digest)s
"""
_RECENT: Final = """
    SELECT 1 FROM tgm_delivery
    WHERE fingerprint = %(fingerprint)s AND received_at > %(since)s AND status <> 'repeat'
    UNION ALL SELECT 1 FROM tgm_delivery_purged WHERE fingerprint = %(fingerprint)s AND received_at > %(since)s
    LIMIT 1
"""
_CLAIM: Final = f"""
    UPDATE tgm_delivery
    SET status = 'processing', attempts = attempts + 1, due_at = NULL, worker = %s, claim = %s
    WHERE id IN (
        SELECT id FROM tgm_delivery WHERE status = 'stored' AND due_at <= %s
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
    )
    RETURNING {COLUMNS}
"""  # noqa: S608 - constants
_CLAIMED: Final = f"SELECT {COLUMNS} FROM tgm_delivery WHERE status = 'processing' AND worker = %s AND claim = %s"  # noqa: S608 - constants
_RELEASE: Final = """
    UPDATE tgm_delivery SET status = 'stored', attempts = attempts - 1, due_at = received_at
    WHERE status = 'processing' AND worker = %s AND claim = ANY(%s)
"""
_TAKE_OVER: Final = f"""
    UPDATE tgm_delivery SET status = 'stored', due_at = received_at
    WHERE status = 'processing' AND worker NOT IN ({ALIVE})
"""  # noqa: S608 - constants


class PostgresInbox(DatabaseInbox[WorkersStorage]):
    """An Inbox in the database at `conninfo`, which may also hold a ledger. Any number of processes may open it.

    The entries that a process was handling when it died are handed to another process. So are, after 15 seconds, the
    entries of a process that the server cannot reach. The password in `conninfo` is not part of any message or repr.
    Raises StorageError if the server fails for half a minute.

    With a `bot_id` an inbox of another bot is refused at opening, and one that belongs to no bot is bound to this one.
    """

    _dialect = Dialect(
        next_due="SELECT min(due_at) FROM tgm_delivery WHERE status = 'stored'",
        page=f"""
            SELECT {COLUMNS} FROM tgm_delivery WHERE id > %(after)s AND status = ANY(%(states)s)
            ORDER BY id LIMIT %(limit)s
        """,  # noqa: S608 - constants
        retry="""
            UPDATE tgm_delivery
            SET status = 'stored', attempts = 0, waits = 0, due_at = received_at, worker = NULL, claim = NULL,
                note = coalesce(%(note)s, note)
            WHERE id = %(id)s AND status IN ('dead', 'unreadable', 'repeat')
        """,
        # The same verdict a second time is not an error: it was committed, and then the connection was lost.
        drop="UPDATE tgm_delivery SET status = 'done', note = %(note)s WHERE id = %(id)s AND status = 'dead'",
        settle="""
            UPDATE tgm_delivery
            SET status = %(status)s, handled = %(handled)s, due_at = %(due_at)s,
                attempts = coalesce(%(attempts)s, attempts), waits = coalesce(%(waits)s, waits),
                note = CASE WHEN %(note)s = '' AND note LIKE %(replayed)s THEN note ELSE %(note)s END
            WHERE id = %(id)s AND status IN ('processing', %(status)s) AND worker = %(worker)s
        """,
        purge=(
            """
            WITH purged AS (
                DELETE FROM tgm_delivery
                WHERE received_at < %(before)s AND status IN ('done', 'repeat', 'unreadable')
                RETURNING digest, status, fingerprint, received_at
            )
            INSERT INTO tgm_delivery_purged (digest, status, fingerprint, received_at)
            SELECT digest, status, CASE status WHEN 'done' THEN fingerprint END, received_at FROM purged
            """,
        ),
        binding_table=BINDING,
        stored_time=lambda time: time,
        loaded_time=lambda time: time.astimezone(UTC),
        stored_list=lambda items: items,
    )

    @hides_arguments
    def __init__(self, conninfo: str | Secret, *, bot_id: int | None = None) -> None:
        self._bot_id = None if bot_id is None else check_id("bot_id", bot_id)
        self._storage = WorkersStorage(conninfo, INBOX)
        self._where = self._storage.server
        self._numbers = count(1)
        self._doubtful: set[int] = set()

    def _shown(self) -> str:
        return f"<PostgresInbox at {self._storage.server}, {'open' if self.is_open else 'not open'}>"

    async def open(self) -> Self:
        """Connect, create or migrate the tables, and store again the entries that dead processes were handling.

        Raises UsageError and StorageError as `PostgresLedger.open` does, and UsageError for another bot's inbox.
        """
        await self._storage.open(self._recover)
        await self._bind_at_opening()
        return self

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Change at most `limit` due entries to `processing`, oldest first, count an attempt for each, return them."""
        number, liveness, again = next(self._numbers), self._storage.liveness, False

        def take(lane: Lane) -> list[Entry]:
            nonlocal again
            self._worker = liveness.secure()
            mine = (self._worker, number)
            rows = lane.execute(_CLAIMED, mine).fetchall() if again else []
            again = True
            return self._loaded(rows or lane.execute(_CLAIM, (*mine, now, limit)).fetchall())

        try:
            return await self._storage.run(take)
        except StorageError:
            self._doubtful.add(number)
            raise

    async def _write(self, job: Callable[[Any], T], *, receives: bool = False) -> T:  # noqa: ARG002 - any process receives
        return await self._storage.run(job)

    def _recover(self, lane: Lane) -> None:
        """Store again the entries of this process's doubtful claims, and those of dead workers."""
        if self._doubtful and self._worker is not None:
            doubtful = tuple(self._doubtful)
            lane.execute(_RELEASE, (self._worker, list(doubtful)))
            self._doubtful.difference_update(doubtful)
        lane.execute(_TAKE_OVER.encode())

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Store a delivery as `DatabaseInbox.store` does."""
        since = arrival.received_at - timedelta(seconds=repeat_window)
        return await self._write(partial(self._store, arrival=arrival, since=since), receives=True)

    def _store(self, connection: Lane, arrival: Arrival, since: datetime) -> Receipt:
        digest = bytes.fromhex(arrival.delivery.digest)
        with connection.transaction():
            # Deliveries of one event wait for each other here, or neither would see the other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (arrival.fingerprint,))
            found = connection.execute(_FIND, {"digest": digest}).fetchone()
            if found is None:
                event = {"fingerprint": arrival.fingerprint, "since": since}
                is_repeat = connection.execute(_RECENT, event).fetchone() is not None
                status = status_of_new(arrival, is_repeat=is_repeat)
                if connection.execute(_INSERT, self._row_of_new(arrival, status)).rowcount:
                    return Receipt(new=True, status=status)
                found = (status, None)  # an unreadable delivery that another connection stored at the same moment
        # The same microsecond means the same call: it was committed, and then the connection was lost.
        return Receipt(new=found[1] == arrival.received_at, status=EntryStatus(found[0]))
