"""The part of an inbox that SQLite and PostgreSQL share; what differs is in `sqlite` and `postgres`, mostly SQL."""

import json
from abc import abstractmethod
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar

from attrs import evolve, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.storage.binding import Binding, BindingTable, agreed
from tgmembership_async.storage.database import Connection, S
from tgmembership_async.storage.text import storable
from tgmembership_async.webhooks.inbox import Arrival, Entry, EntryStatus, Receipt, Verdict
from tgmembership_async.webhooks.signature import Delivery

T = TypeVar("T")
COLUMNS: Final = (
    "id, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, handled, note, waits"
)

_COMPONENT: Final = "inbox"
_REPLAYED: Final = "replayed: "
_ADVICE: Final = "give this bot an inbox of its own (another file, database or schema)"


@frozen(kw_only=True)
class Dialect:
    """The statements of one database, which take their values by name, and how it stores a time and a list."""

    next_due: Any
    """Selects the time at which the next stored entry is due, or NULL."""
    page: Any
    """Selects COLUMNS of at most `limit` entries in one of `states`, by id, from ids greater than `after`."""
    retry: Any
    """Stores the entry `id` again if its status is dead, unreadable or repeat; with `note`, unless that is NULL."""
    drop: Any
    """Gives up the entry `id`, with `note`, if it is dead."""
    settle: Any
    """Records a verdict on the entry `id`, if `worker` processes it; an empty note keeps one like `replayed`."""
    purge: tuple[Any, ...]
    """Keep the digests of entries received before `before`, and delete them; the last one counts the entries."""
    binding_table: BindingTable
    stored_time: Callable[[datetime], Any]
    loaded_time: Callable[[Any], datetime]
    stored_list: Callable[[list[str]], Any]


def status_of_new(arrival: Arrival, *, is_repeat: bool) -> EntryStatus:
    """Return the status of a new delivery; `is_repeat` tells whether its event was received recently."""
    if arrival.fingerprint is None:
        return EntryStatus.UNREADABLE
    return EntryStatus.REPEAT if is_repeat else EntryStatus.STORED


class DatabaseInbox(AsyncResource, Generic[S]):
    """An Inbox in a database. Subclasses define how to open it, run a job, and store or claim a delivery."""

    _dialect: ClassVar[Dialect]
    _storage: S
    _where: object
    _worker: int | None = None
    _bot_id: int | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the inbox is open."""
        return self._storage.is_open

    async def aclose(self) -> None:
        """Finish pending writes and close the inbox. The entries that are still being handled are stored again."""
        await self._storage.aclose()

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the inbox belongs to; with `record` an inbox without any is bound to these.

        `service` is the origin of the service's URL, or "" if it is unknown: then only the bots are compared. Raises
        UsageError if the inbox belongs to another bot or service.
        """
        job = partial(self._bind, service=service, bot_id=check_id("bot_id", bot_id), record=record)
        return await (self._write(job) if record else self._read(job))

    @abstractmethod
    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Store a delivery unless it is stored already.

        The delivery is a repeat if the same event was received in the last `repeat_window` seconds.
        """

    async def settle(self, entry_id: int, verdict: Verdict) -> None:
        """Record the result of an attempt. Raises UsageError if the entry is not being processed here."""
        values = {
            "id": entry_id,
            "worker": self._worker,
            "status": str(verdict.status),
            "handled": json.dumps(sorted(verdict.handled)),
            "note": storable(verdict.note),
            "replayed": f"{_REPLAYED}%",
            "due_at": None if verdict.due_at is None else self._dialect.stored_time(verdict.due_at),
            "attempts": verdict.attempts,
            "waits": verdict.waits,
        }
        settle = self._dialect.settle
        if not await self._write(lambda connection: connection.execute(settle, values).rowcount, receives=True):
            msg = (
                f"delivery {entry_id} is not being processed here: this process was taken for dead,"
                " or another program changed the inbox"
            )
            raise UsageError(msg)

    async def next_due(self) -> datetime | None:
        """Return when the next stored entry is due, or None if no entry is stored."""
        return await self._read(self._next_due)

    async def entries(
        self, status: Collection[EntryStatus] | None = None, *, after: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Return at most `limit` entries with one of these statuses and an id greater than `after`, by id."""
        states = self._dialect.stored_list([str(one) for one in (EntryStatus if status is None else status)])
        return await self._read(partial(self._page, values={"states": states, "after": after, "limit": limit}))

    async def retry(self, entry_id: int, reason: str = "") -> None:
        """Store a dead, unreadable or repeated entry again, with 0 attempts and waits.

        With a reason, that becomes the note of the entry, and stays so if the handlers succeed. The process that
        handles the inbox notices this within a minute. Raises UsageError if the entry does not exist or has another
        status.
        """
        note = storable(f"{_REPLAYED}{reason}") if reason else None
        await self._write(partial(self._retry, values={"id": entry_id, "note": note}))

    async def drop(self, entry_id: int, reason: str) -> None:
        """Give up a dead entry: it becomes `done`, with the reason as its note. Raises UsageError for other entries."""
        await self._write(partial(self._drop, values={"id": entry_id, "note": storable(f"dropped: {reason}")}))

    async def purge(self, received_before: datetime) -> int:
        """Delete entries that are done, repeated or unreadable and were received before then; return their number.

        The digest of each entry is kept, so that `store` recognises the delivery if it is sent again.
        """
        return await self._write(partial(self._purge, before=self._dialect.stored_time(received_before)))

    @abstractmethod
    async def _write(self, job: Callable[[Any], T], *, receives: bool = False) -> T:
        """Run a job in a thread; raise UsageError if it receives and the inbox is open for an operator only."""

    async def _read(self, job: Callable[[Any], T]) -> T:
        """Run a job that only reads, in a thread."""
        return await self._write(job)

    async def _bind_at_opening(self, *, record: bool = True) -> None:
        """Bind an inbox that was created with a `bot_id`. An inbox of another bot is closed again."""
        if self._bot_id is not None:
            try:
                await self.bind("", self._bot_id, record=record)
            except BaseException:
                await self._storage.aclose()
                raise

    def _bind(self, connection: Any, service: str, bot_id: int, *, record: bool) -> Binding:
        def check(found: Binding | None) -> Binding:
            comparable = found
            if found is not None and not (found.service and service):  # one of them is unknown
                comparable = evolve(found, service=service)
            wanted = Binding(service, bot_id)
            binding = agreed(comparable, wanted, bot_id=bot_id, is_empty=True, where=self._where, advice=_ADVICE)
            return found or binding

        return self._dialect.binding_table.bind(connection, _COMPONENT, check, record=record)

    def _next_due(self, connection: Connection) -> datetime | None:
        [first] = connection.execute(self._dialect.next_due, {}).fetchone()
        return None if first is None else self._dialect.loaded_time(first)

    def _page(self, connection: Connection, values: dict[str, Any]) -> list[Entry]:
        return self._loaded(connection.execute(self._dialect.page, values).fetchall())

    def _retry(self, connection: Connection, values: dict[str, Any]) -> None:
        if connection.execute(self._dialect.retry, values).rowcount != 1:
            msg = f"there is no delivery {values['id']} that is dead, unreadable or a repeat"
            raise UsageError(msg)

    def _drop(self, connection: Connection, values: dict[str, Any]) -> None:
        if connection.execute(self._dialect.drop, values).rowcount != 1:
            msg = f"there is no delivery {values['id']} that is dead"
            raise UsageError(msg)

    def _purge(self, connection: Connection, before: Any) -> int:
        counts: list[int] = [
            connection.execute(statement, {"before": before}).rowcount for statement in self._dialect.purge
        ]
        return counts[-1]

    def _row_of_new(self, arrival: Arrival, status: EntryStatus) -> dict[str, Any]:
        received_at = self._dialect.stored_time(arrival.received_at)
        return {
            "digest": bytes.fromhex(arrival.delivery.digest),
            "status": str(status),  # sqlite3 takes longer for any other type than for writing the value
            "name": None if arrival.name is None else storable(arrival.name),
            "fingerprint": arrival.fingerprint,
            "signed_at": self._dialect.stored_time(arrival.delivery.signed_at),
            "received_at": received_at,
            "nonce": arrival.delivery.nonce,
            "body": arrival.delivery.body,
            "due_at": received_at if status is EntryStatus.STORED else None,
            "note": storable(arrival.note),
        }

    def _loaded(self, rows: list[tuple[Any, ...]]) -> list[Entry]:
        """Return the entries of rows of COLUMNS, by id."""
        return sorted(map(self._entry, rows), key=lambda entry: entry.id)

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        number, status, signed_at, nonce, body, digest, received_at, name, fingerprint, attempts, due_at, *rest = row
        handled, note, waits = rest
        time = self._dialect.loaded_time
        return Entry(
            id=number,
            status=EntryStatus(status),
            delivery=Delivery(time(signed_at), nonce, body, digest.hex()),
            received_at=time(received_at),
            name=name,
            fingerprint=fingerprint,
            attempts=attempts,
            due_at=None if due_at is None else time(due_at),
            handled=frozenset(json.loads(handled)),
            note=note,
            waits=waits,
        )
