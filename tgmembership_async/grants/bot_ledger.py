"""The rows of one bot, in a ledger of its own or in one that several bots share."""

from collections.abc import AsyncIterator, Callable, Collection
from datetime import datetime, timedelta
from typing import Final, Protocol, Self, runtime_checkable

from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.follow_ups import FollowUp, FollowUps, FormerNames
from tgmembership_async.grants.ledger import Claim, CountsByDay, Ledger, get_many
from tgmembership_async.grants.model import (
    LONGEST_REF,
    Attempt,
    DayCount,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    RefTooLong,
    Settlement,
)
from tgmembership_async.grants.paging import Selected
from tgmembership_async.storage.binding import Binding
from tgmembership_async.values.models import AccessToken

LEDGER_ADVICE: Final = (
    "give this bot or project a ledger of its own (--ledger FILE, SqliteLedger(path)), or begin a new one that several "
    "bots may share (shared_by_bots=True)"
)


@runtime_checkable
class Bindable(FollowUps, Protocol):
    """A ledger that records its bot and service. `SqliteLedger`, `PostgresLedger` and `MemoryLedger` do."""

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the ledger belongs to; with `record` a ledger without any is bound to these.

        Raises UsageError if it belongs to another bot or service.
        """
        ...

    async def count(self, prefix: str = "") -> dict[GrantStatus, int]:
        """Return the number of rows of each status, of the refs that begin with `prefix`."""
        ...

    async def search(self, text: str, *, limit: int, prefix: str = "") -> list[Grant]:
        """Return rows whose member is `text`, and then whose ref contains it, of the refs that begin with `prefix`."""
        ...


async def ledger_of_bot(ledger: Ledger, service: str, bot_id: int, *, record: bool) -> Ledger:
    """Return the ledger that a bot grants with: the given one or, if several bots share it, this bot's part of it."""
    whole = ledger.whole if isinstance(ledger, BotLedger) else ledger
    if not isinstance(whole, Bindable):
        return ledger
    binding = await whole.bind(service, bot_id, record=record)
    return BotLedger(whole, bot_id) if binding.bot_id is None else whole


def key(bot_id: int, ref: str) -> str:
    """Return how the ref of a bot is kept in a ledger that several bots share."""
    return f"{bot_id}:{ref}"


class BotLedger(FormerNames):
    """One bot's part of the ledger `whole`: callers use refs, which are kept as keys."""

    def __init__(self, whole: Bindable, bot_id: int) -> None:
        self.whole = whole
        self._bot_id = bot_id
        self._prefix = key(bot_id, "")

    def __repr__(self) -> str:
        return f"<{self.whole!r} for {Binding('', self._bot_id)}>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self.whole.is_open

    @property
    def interruptions(self) -> int:
        """Return how often the connection was lost that shows others that this worker is alive."""
        return getattr(self.whole, "interruptions", 0)

    async def open(self) -> Self:
        """Make the ledger ready."""
        await self.whole.open()
        return self

    async def aclose(self) -> None:
        """Finish writing, and close the ledger."""
        await self.whole.aclose()

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row."""
        return self._mine(await self.whole.plan(self._kept(request)))

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`."""
        claim = await self.whole.claim(self._kept(request))
        return evolve(claim, grant=self._mine(claim.grant))

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record how the exchange of a `sending` row ended."""
        return self._mine(await self.whole.settle(self._key(ref), settlement))

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Apply a decision to a row."""
        return self._mine(await self.whole.decide(self._key(ref), decision, token, reason))

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link."""
        return self._mine(await self.whole.mark_delivered(self._key(ref)))

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        grant = await self.whole.get(self._key(ref))
        return None if grant is None else self._mine(grant)

    async def get_many(self, refs: Collection[str]) -> dict[str, Grant]:
        """Return the rows of these refs, by ref."""
        fitting = [ref for ref in refs if len(self._prefix + ref) <= LONGEST_REF]  # the others have no row
        found = await get_many(self.whole, list(map(self._key, fitting)))
        return {grant.ref: grant for grant in map(self._mine, found.values())}

    def grants(
        self,
        status: Collection[GrantStatus] | None = None,
        since: datetime | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Grant]:
        """Yield this bot's rows, the oldest ref first; with `after`, those behind the row of that ref."""
        rows = self.whole.grants(status, since, None if after is None else self._key(after))
        return Selected(rows, lambda grant: self._mine(grant) if grant.ref.startswith(self._prefix) else None)

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        return [evolve(attempt, ref=ref) for attempt in await self.whole.attempts(self._key(ref))]

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        return [evolve(made, ref=ref) for made in await self.whole.decisions(self._key(ref))]

    async def count(self) -> dict[GrantStatus, int]:
        """Return the number of this bot's rows of each status."""
        return await self.whole.count(self._prefix)

    async def count_by_day(self, prefix: str = "", *, counted: Callable[[int], object] | None = None) -> list[DayCount]:
        """Return the number of this bot's rows by day, plan and status."""
        if not isinstance(self.whole, CountsByDay):
            msg = f"{type(self.whole).__name__} does not count its rows by day: it lacks count_by_day"
            raise UsageError(msg)
        return await self.whole.count_by_day(self._prefix + prefix, counted=counted)

    async def search(self, text: str, *, limit: int) -> list[Grant]:
        """Return at most `limit` of this bot's rows whose member is `text`, and then whose ref contains it."""
        return [self._mine(grant) for grant in await self.whole.search(text, limit=limit, prefix=self._prefix)]

    async def purge(self, delivered_before: datetime) -> int:
        """Wipe the tokens of rows delivered before then, of all bots."""
        return await self.whole.purge(delivered_before)

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row."""
        found = await self.whole.begin_follow_up(self._key(ref), lease=lease, grace=grace)
        return None if found is None else evolve(found, grant=self._mine(found.grant))

    async def postpone(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`."""
        return await self.whole.postpone(self._leased(follow_up), failures=failures, due_at=due_at)

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Return the lease of a row whose status has changed."""
        await self.whole.end_follow_up(self._leased(follow_up))

    async def check_writable(self) -> None:
        """Make a small durable write; raises StorageError if the ledger cannot write."""
        await self.whole.check_writable()

    def _key(self, ref: str) -> str:
        kept = key(self._bot_id, ref)
        if len(kept) > LONGEST_REF:
            most = LONGEST_REF - len(self._prefix)
            msg = f"in a ledger that several bots share a ref has at most {most} characters, and {ref:.40}... has more"
            raise RefTooLong(msg)
        return kept

    def _kept(self, request: GrantRequest) -> GrantRequest:
        return evolve(request, ref=self._key(request.ref))

    def _leased(self, follow_up: FollowUp) -> FollowUp:
        return evolve(follow_up, grant=evolve(follow_up.grant, ref=self._key(follow_up.grant.ref)))

    def _mine(self, grant: Grant) -> Grant:
        return evolve(grant, ref=grant.ref.removeprefix(self._prefix))
