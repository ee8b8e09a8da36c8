"""The protocol of an inbox, which stores each delivery before it is answered, and its values."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from attrs import field, frozen

from tgmembership_async.storage.binding import Binding
from tgmembership_async.webhooks.signature import Delivery


class EntryStatus(StrEnum):
    """The status of a stored delivery."""

    STORED = "stored"
    """Waiting for its handlers, for the first time or again, or for information that its project does not have yet."""
    PROCESSING = "processing"
    """Its handlers are running."""
    DONE = "done"
    """All handlers have succeeded, or somebody dropped the entry. `note` tells why it was replayed or dropped."""
    DEAD = "dead"
    """Handlers failed in the last allowed attempt. `retry` stores it again."""
    REPEAT = "repeat"
    """The same event with another signature is in the inbox already. Kept, and not processed."""
    UNREADABLE = "unreadable"
    """Authentic, but not an event. Kept, and not processed."""


@frozen
class Receipt:
    """The result of `Inbox.store`. `new` is False if the same delivery was stored before."""

    new: bool
    status: EntryStatus


@frozen
class Arrival:
    """A delivery to be stored. `name` and `fingerprint` are those of its event, or None if it is unreadable."""

    delivery: Delivery
    received_at: datetime
    name: str | None = None
    fingerprint: str | None = None
    note: str = ""


@frozen
class Entry:
    """A stored delivery. `attempts` is the number of attempts, `handled` holds the labels of handlers that are done.

    `due_at` is the time of the next attempt, `note` the problem of the last one. Times are aware UTC. `waits` is the
    number of times that it waited for information from its project; these are not attempts.
    """

    id: int
    status: EntryStatus
    delivery: Delivery
    received_at: datetime
    name: str | None = None
    fingerprint: str | None = None
    attempts: int = 0
    due_at: datetime | None = None
    handled: frozenset[str] = field(default=frozenset(), repr=False)
    note: str = ""
    waits: int = 0


@frozen
class Verdict:
    """The result of one attempt at an entry. `due_at` is the time of the next attempt, if the status is `stored`.

    `attempts` and `waits` are the new numbers of the entry; None leaves them as they are.
    """

    status: EntryStatus
    handled: frozenset[str] = frozenset()
    note: str = ""
    due_at: datetime | None = None
    attempts: int | None = None
    waits: int | None = None


@runtime_checkable
class Inbox(Protocol):
    """A durable store of deliveries. Each change is durable when its coroutine returns; failures raise StorageError."""

    @property
    def is_open(self) -> bool:
        """Tell whether the inbox is open."""
        ...

    async def open(self) -> Self:
        """Open the inbox, and store again the entries that a dead owner was processing."""
        ...

    async def aclose(self) -> None:
        """Finish pending writes and close the inbox."""
        ...

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Store a delivery unless it is stored already.

        The delivery is a repeat if the same event was received in the last `repeat_window` seconds.
        """
        ...

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Change at most `limit` due entries to `processing`, oldest first, count an attempt for each, return them."""
        ...

    async def settle(self, entry_id: int, verdict: Verdict) -> None:
        """Record the result of an attempt. Raises UsageError if the entry is not being processed here."""
        ...

    async def next_due(self) -> datetime | None:
        """Return when the next stored entry is due, or None if no entry is stored."""
        ...

    async def entries(
        self, status: Collection[EntryStatus] | None = None, *, after: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Return at most `limit` entries with one of these statuses and an id greater than `after`, by id."""
        ...

    async def retry(self, entry_id: int, reason: str = "") -> None:
        """Store a dead, unreadable or repeated entry again, with 0 attempts and waits.

        With a reason, that becomes the note of the entry, and stays so if the handlers succeed. Raises UsageError for
        other entries.
        """
        ...

    async def drop(self, entry_id: int, reason: str) -> None:
        """Give up a dead entry: it becomes `done`, with the reason as its note. Raises UsageError for other entries."""
        ...

    async def purge(self, received_before: datetime) -> int:
        """Delete entries that are done, repeated or unreadable and were received before then; return their number.

        `store` still recognises a deleted delivery, and returns the same receipt as before.
        """
        ...


@runtime_checkable
class BindableInbox(Inbox, Protocol):
    """An inbox that records its bot and service. `SqliteInbox` and `PostgresInbox` do."""

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the inbox belongs to; with `record` an inbox without any is bound to these.

        `service` is the origin of the service's URL, or "" if it is unknown: then only the bots are compared. Raises
        UsageError if the inbox belongs to another bot or service.
        """
        ...
