"""What an inbox must do: keep each delivery before it is answered, and what became of it until nobody asks any more."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from attrs import field, frozen

from tgmembership_async.webhooks.signature import Delivery


class EntryStatus(StrEnum):
    """Where a stored delivery stands."""

    STORED = "stored"
    """It waits for its handlers, for the first time or again."""
    PROCESSING = "processing"
    """Its handlers run."""
    DONE = "done"
    """All handlers are done with it."""
    DEAD = "dead"
    """Handlers failed as often as they may; it waits for `retry`."""
    REPEAT = "repeat"
    """The same event, signed anew, is in the inbox already; kept, and not processed."""
    UNREADABLE = "unreadable"
    """Authentic, but not an event; kept, and not processed."""


@frozen
class Receipt:
    """What `Inbox.store` did: `new` unless this very delivery was stored before, and where it stands."""

    new: bool
    status: EntryStatus


@frozen
class Arrival:
    """A delivery to be stored. `name` and `fingerprint` are its event's, None where it is unreadable."""

    delivery: Delivery
    received_at: datetime
    name: str | None = None
    fingerprint: str | None = None
    note: str = ""


@frozen
class Entry:
    """A stored delivery. `attempts` counts how often it was handed to handlers, `handled` names those that are done.

    `due_at` is when it is to be handed out next, `note` what was wrong the last time. Times are aware UTC.
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


@frozen
class Verdict:
    """What became of one attempt at an entry; `due_at` is for one that is `stored` again."""

    status: EntryStatus
    handled: frozenset[str] = frozenset()
    note: str = ""
    due_at: datetime | None = None


@runtime_checkable
class Inbox(Protocol):
    """Deliveries, each durable when the coroutine that stored it returns; all of them raise StorageError on failure."""

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        ...

    async def open(self) -> Self:
        """Make the inbox ready; what a dead owner was processing is stored again."""
        ...

    async def aclose(self) -> None:
        """Finish what is being written, and let go."""
        ...

    async def store(self, arrival: Arrival, *, repeat_window: float) -> Receipt:
        """Keep a delivery, unless this very one is there; one whose event came in the last seconds is a repeat."""
        ...

    async def claim(self, limit: int, now: datetime) -> list[Entry]:
        """Take up to `limit` entries that are due to `processing`, the oldest first, counting an attempt for each."""
        ...

    async def settle(self, entry_id: int, verdict: Verdict) -> None:
        """Record what became of an entry that was claimed."""
        ...

    async def next_due(self) -> datetime | None:
        """Return when the next entry is due, or None where nothing waits."""
        ...

    async def entries(
        self, status: Collection[EntryStatus] | None = None, *, after: int = 0, limit: int = 500
    ) -> list[Entry]:
        """Return up to `limit` entries of these states, the oldest first, from behind the id `after`."""
        ...

    async def retry(self, entry_id: int) -> None:
        """Have a dead, unreadable or repeated entry handed out again, its attempts counted from 1."""
        ...

    async def purge(self, received_before: datetime) -> int:
        """Delete what is done, repeated or unreadable and was received before then; return how many there were.

        What is deleted is known when it comes again: `store` answers as if it were there.
        """
        ...
