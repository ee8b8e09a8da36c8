"""A ledger in memory, for tests and experiments: its rows are lost when the process ends."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Self

from anyio.lowlevel import checkpoint
from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import LEDGER_ADVICE
from tgmembership_async.grants.follow_ups import FollowUp, FormerNames, Kept, Leases, is_about, look
from tgmembership_async.grants.ledger import Claim
from tgmembership_async.grants.model import (
    Attempt,
    DayCount,
    DayKey,
    Decision,
    DecisionMade,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
    check_ref,
    day_counts,
)
from tgmembership_async.grants.paging import Page, Paged
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.storage.binding import Binding, agreed
from tgmembership_async.storage.text import storable
from tgmembership_async.values.models import AccessToken


class MemoryLedger(AsyncResource, FormerNames):
    """A Ledger that keeps its rows as long as it lives, also while it is closed. `clock` returns aware UTC.

    It belongs to the first bot that grants with it or, with `shared_by_bots=True`, to all bots of that service.
    """

    def __init__(self, *, shared_by_bots: bool = False, clock: transitions.Clock = transitions.utc_now) -> None:
        self._clock = clock
        self._shared_by_bots = shared_by_bots
        self._binding: Binding | None = None
        self._is_open = False
        self._rows: dict[str, Grant] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._decisions: dict[str, list[DecisionMade]] = {}
        self._follow_ups: dict[str, Kept] = {}
        self._leases = Leases()

    def _shown(self) -> str:
        return f"<MemoryLedger with {len(self._rows)} refs>"

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._is_open

    async def open(self) -> Self:
        """Make the ledger ready; rows that were being sent when it was closed become `unknown`."""
        if self._is_open:
            msg = "this ledger is open already"
            raise UsageError(msg)
        await checkpoint()
        self._is_open = True
        self._leases = Leases()
        for grant in self._rows.values():
            if grant.status is GrantStatus.SENDING:
                self._settle(grant, transitions.interruption(grant), ended_at=None)
        return self

    async def aclose(self) -> None:
        """Close the ledger; its rows are kept for the next `open`."""
        self._is_open = False

    async def plan(self, request: GrantRequest) -> Grant:
        """Record the intent if the ref is new; return its row. Raises RefConflict for another plan or member."""
        await self._turn()
        return self._plan(request)

    async def claim(self, request: GrantRequest) -> Claim:
        """Like `plan`, and take a planned row to `sending`, counting an attempt, for this caller to send."""
        await self._turn()
        grant = self._plan(request)
        if grant.status is not GrantStatus.PLANNED:
            return Claim(grant, mine=False)
        sending = self._keep(transitions.claimed(grant, self._clock()))
        began = Attempt(grant.ref, sending.attempts, sending.updated_at, None, None, "")
        self._attempts.setdefault(grant.ref, []).append(began)
        return Claim(sending, mine=True)

    async def settle(self, ref: str, settlement: Settlement) -> Grant:
        """Record the outcome of the exchange of a `sending` row."""
        await self._turn()
        return self._settle(self._known(ref), settlement, ended_at=self._clock())

    async def decide(self, ref: str, decision: Decision, token: AccessToken | None, reason: str) -> Grant:
        """Apply a decision to a row if `model.DECIDED_FROM` allows it; record it with time and reason."""
        await self._turn()
        now = self._clock()
        grant = self._keep(transitions.decided(self._known(ref), decision, token, now))
        self._follow_ups.pop(ref, None)
        made = DecisionMade(ref, decision, now, storable(reason))
        self._decisions.setdefault(ref, []).append(made)
        return grant

    async def mark_delivered(self, ref: str) -> Grant:
        """Record that the customer has the link; a row that is delivered already does not change."""
        await self._turn()
        return self._keep(transitions.delivered(self._known(ref), self._clock()))

    async def get(self, ref: str) -> Grant | None:
        """Return the row of a ref, or None."""
        await self._turn()
        return self._rows.get(check_ref(ref))

    async def get_many(self, refs: Collection[str]) -> dict[str, Grant]:
        """Return the rows of these refs, by ref; a ref without a row is left out."""
        await self._turn()
        return {ref: self._rows[ref] for ref in map(check_ref, refs) if ref in self._rows}

    def grants(
        self,
        status: Collection[GrantStatus] | None = None,
        since: datetime | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Grant]:
        """Yield rows, the oldest ref first, of these statuses and changed at `since` or later; begin behind `after`."""
        wanted = frozenset(GrantStatus if status is None else status)
        earliest = None if since is None else transitions.check_aware("since", since)

        async def all_at_once(_: int) -> Page:
            await self._turn()
            found = iter(self._rows.values())
            if after is not None:
                found = dropwhile(self._known(after).__ne__, found)
                next(found)
            rows = [grant for grant in found if grant.status in wanted]
            return [grant for grant in rows if earliest is None or grant.updated_at >= earliest], None

        return Paged(all_at_once)

    async def attempts(self, ref: str) -> list[Attempt]:
        """Return the exchanges of a ref, in order."""
        await self._turn()
        return list(self._attempts.get(check_ref(ref), ()))

    async def decisions(self, ref: str) -> list[DecisionMade]:
        """Return the decisions about a ref, in order."""
        await self._turn()
        return list(self._decisions.get(check_ref(ref), ()))

    async def count(self, prefix: str = "") -> dict[GrantStatus, int]:
        """Return the number of rows of each status, of the refs that begin with `prefix`; 0 is left out."""
        await self._turn()
        return Counter(grant.status for ref, grant in self._rows.items() if ref.startswith(prefix))

    async def count_by_day(self, prefix: str = "", *, counted: Callable[[int], object] | None = None) -> list[DayCount]:
        """Return the number of rows by day, plan and status, of the refs that begin with `prefix`."""
        await self._turn()
        rows = [grant for ref, grant in self._rows.items() if ref.startswith(prefix)]
        days = Counter[DayKey](
            ((grant.granted_at or grant.updated_at).astimezone(UTC).date(), grant.plan_id, grant.status)
            for grant in rows
        )
        if counted is not None:
            counted(len(rows))
        return day_counts(days)

    async def search(self, text: str, *, limit: int, prefix: str = "") -> list[Grant]:
        """Return at most `limit` rows whose member is `text`, and then whose ref contains it; the newest ref first."""
        await self._turn()

        def is_of_member(grant: Grant) -> bool:
            return grant.member_id is not None and text == str(grant.member_id)

        found = (
            grant
            for ref, grant in reversed(self._rows.items())
            if ref.startswith(prefix) and (text in ref[len(prefix) :] or is_of_member(grant))
        )
        return sorted(found, key=is_of_member, reverse=True)[:limit]

    async def purge(self, delivered_before: datetime) -> int:
        """Remove the tokens of rows delivered before then, and return their number; the rows stay."""
        limit = transitions.check_aware("delivered_before", delivered_before)
        await self._turn()
        done = [grant for grant in self._rows.values() if grant.status is GrantStatus.DELIVERED]
        wiped = [grant for grant in done if grant.token is not None and grant.updated_at < limit]
        for grant in wiped:
            self._keep(evolve(grant, token=None))
        return len(wiped)

    async def begin_follow_up(self, ref: str, *, lease: timedelta, grace: timedelta) -> FollowUp | None:
        """Lease the follow-up of a row, or return None: it is not due, or is leased already."""
        await self._turn()
        grant, now = self._known(ref), self._clock()
        seen = look(grant, self._follow_ups.get(ref), now, grace)
        if seen.keep is not None:
            self._follow_ups[ref] = seen.keep
        return self._leases.take(grant, seen, now, lease)

    async def postpone(self, follow_up: FollowUp, *, failures: int, due_at: datetime) -> bool:
        """Release a lease: due again at `due_at`, after `failures`. Return False if the lease was no longer held."""
        await self._turn()
        grant = follow_up.grant
        if not self._leases.give_back(grant.ref, follow_up.lease) or not is_about(follow_up, self._known(grant.ref)):
            return False
        self._follow_ups[grant.ref] = Kept(grant.status, failures, due_at)
        return True

    async def end_follow_up(self, follow_up: FollowUp) -> None:
        """Release the lease of a row whose status has changed."""
        await self._turn()
        self._leases.give_back(follow_up.grant.ref, follow_up.lease)

    async def check_writable(self) -> None:
        """Return: memory can be written to."""
        await self._turn()

    async def bind(self, service: str, bot_id: int, *, record: bool = True) -> Binding:
        """Return the bot and service that the ledger belongs to; with `record` a ledger without any is bound to these.

        Raises UsageError if it belongs to another bot or service.
        """
        self._check_open()  # and no checkpoint: grants keep the order of their calls
        wanted = Binding(service, None if self._shared_by_bots else bot_id)
        found, is_empty = self._binding, not self._rows
        binding = agreed(found, wanted, bot_id=bot_id, is_empty=is_empty, where="this ledger", advice=LEDGER_ADVICE)
        if record:
            self._binding = binding
        return binding

    async def _turn(self) -> None:
        self._check_open()
        await checkpoint()  # before the first change, so that a call cancelled here changes nothing

    def _check_open(self) -> None:
        if not self._is_open:
            msg = "the ledger is not open: use `async with MemoryLedger() as ledger:`, or await ledger.open() first"
            raise UsageError(msg)

    def _plan(self, request: GrantRequest) -> Grant:
        found = self._rows.get(request.ref)
        if found is not None:
            return transitions.same(found, request)
        return self._keep(transitions.planned(request, self._clock()))

    def _settle(self, sending: Grant, settlement: Settlement, ended_at: datetime | None) -> Grant:
        grant = self._keep(transitions.settled(sending, settlement, self._clock()))
        attempts = self._attempts[grant.ref]
        attempts[-1] = transitions.settled_attempt(attempts[-1], settlement, ended_at)
        return grant

    def _known(self, ref: str) -> Grant:
        return transitions.known(ref, self._rows.get(check_ref(ref)))

    def _keep(self, grant: Grant) -> Grant:
        self._rows[grant.ref] = grant
        return grant
