"""The protocol of a ledger: an intent is durable before it is acted on, and a result before it is returned."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import datetime
from typing import Protocol, Self, runtime_checkable

from attrs import frozen

from tgmembership_async.grants.model import (
    Attempt,
    DayCount,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
)
from tgmembership_async.values.models import AccessToken


@frozen
class Claim:
    """The result of `Ledger.claim`. `mine`: the row just went from planned to sending, for this caller to send.

    `elsewhere`: another running worker is sending it, so it is worth waiting for the outcome.
    """

    grant: Grant
    mine: bool
    elsewhere: bool = False


@runtime_checkable
class Ledger(Protocol):
    """Rows by `ref`, each durable when the coroutine that wrote it returns; every step is one of `model.LEGAL`.

    A step that finds its row in an unexpected status changes nothing and raises GrantError. A coroutine that writes
    either writes everything or, if it raises, nothing; one that is cancelled may still write.
    """

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        ...

    async def open(self) -> Self:
        """Make the ledger ready; rows that an owner left `sending` when its process ended become `unknown`."""
        ...

    async def aclose(self) -> None:
        """Finish writing, and close."""
        ...

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        ...

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt, for this caller to send."""
        ...

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record the outcome of the exchange of a `sending` row."""
        ...

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Apply a decision to a row if `model.DECIDED_FROM` allows it; record it with time and reason."""
        ...

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link; a row that is delivered already does not change."""
        ...

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        ...

    def grants(
        self,
        status: Collection[GrantStatus] | None = None,
        since: datetime | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Grant]:
        """Yield rows, the oldest ref first, of these statuses and changed at `since` or later, with constant memory.

        With `after`, begin behind the row of that ref; the first step raises GrantError if there is no such row.
        """
        ...

    async def count(self) -> Mapping[GrantStatus, int]:
        """Return the number of rows of each status; 0 may be left out."""
        ...

    async def search(self, text: str, *, limit: int) -> list[Grant]:
        """Return at most `limit` rows whose member is `text`, and then whose ref contains it; the newest ref first."""
        ...

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        ...

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        ...

    async def purge(self, delivered_before: datetime) -> int:
        """Remove the tokens of rows delivered before then, and return their number; the rows stay."""
        ...


@runtime_checkable
class CountsByDay(Protocol):
    """A ledger that counts its rows by day, as all of this package do. The report over time needs it."""

    async def count_by_day(self, prefix: str = "", *, counted: Callable[[int], object] | None = None) -> list[DayCount]:
        """Return the number of rows by day, plan and status, of the refs that begin with `prefix`.

        They come in this order, without zeros. A large ledger is counted in parts; `counted` is called after each with
        the number of rows counted so far.
        """
        ...


@runtime_checkable
class SettlesLater(Protocol):
    """A ledger that settles without a task that waits, as `SqliteLedger` does. A run then needs fewer of them."""

    def settle_later(self, ref: str, settlement: Settlement, done: Callable[[Grant | None], object]) -> None:
        """Do what `settle` does, before any claim that is made later, and call `done` in this event loop afterwards.

        Its argument is the row once that is durable, or None if nothing was stored: then `settle` raises the reason.
        """
        ...


@runtime_checkable
class LooksUpMany(Protocol):
    """A ledger that finds many rows at once, as all of this package do. A run that resumes is then faster."""

    async def get_many(self, refs: Collection[str]) -> Mapping[str, Grant]:
        """Return the rows of these refs, by ref; a ref without a row is left out."""
        ...


async def get_many(ledger: Ledger, refs: Collection[str]) -> Mapping[str, Grant]:
    """Return the rows of these refs, by ref; a ref without a row is left out."""
    if isinstance(ledger, LooksUpMany):
        return await ledger.get_many(refs)
    rows = [await ledger.get(ref) for ref in refs]
    return {row.ref: row for row in rows if row is not None}
