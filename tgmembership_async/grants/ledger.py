"""What a ledger must do: keep each intent before it is acted on, and each result before it is told."""

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Protocol, Self, runtime_checkable

from attrs import frozen

from tgmembership_async.grants.model import (
    Attempt,
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
    """What `Ledger.claim` found. `mine`: the row went from planned to sending just now, for this caller to send.

    `elsewhere`: another worker, who is alive, is sending it; its end is worth waiting for.
    """

    grant: Grant
    mine: bool
    elsewhere: bool = False


@runtime_checkable
class Ledger(Protocol):
    """Rows by `ref`, each durable when the coroutine that wrote it returns; every step is one of `model.LEGAL`.

    A step that finds its row in another state than it expects changes nothing and raises GrantError. Every coroutine
    that writes either happens as a whole or, if it raises, not at all; one that is cancelled may still happen.
    """

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        ...

    async def open(self) -> Self:
        """Make the ledger ready; `sending` rows of a dead owner become `unknown`."""
        ...

    async def aclose(self) -> None:
        """Finish what is being written, and let go."""
        ...

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        ...

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt; the one who did so has to send."""
        ...

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record how the exchange of a `sending` row ended."""
        ...

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Take a row where the decision leads, if `model.DECIDED_FROM` allows it; record it with time and reason."""
        ...

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link; a row that is delivered already stays as it is."""
        ...

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        ...

    def grants(
        self, status: Collection[GrantStatus] | None = None, since: datetime | None = None
    ) -> AsyncIterator[Grant]:
        """Yield rows, the oldest ref first, of these states and changed at `since` or later; memory stays flat."""
        ...

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        ...

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        ...

    async def purge(self, delivered_before: datetime) -> int:
        """Wipe the tokens of rows delivered before then, and return of how many; the rows themselves stay."""
        ...
