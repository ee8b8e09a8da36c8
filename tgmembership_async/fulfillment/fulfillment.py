"""The Fulfillment: record a payment durably, grant it once, deliver the link, and ask the owner for decisions."""

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from random import random
from typing import Final, Self, cast

from anyio import CancelScope, current_time, move_on_after, sleep
from attrs import evolve, frozen

from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.fulfillment.background import Background
from tgmembership_async.fulfillment.callbacks import Callback, Callbacks
from tgmembership_async.fulfillment.policy import FulfillmentPolicy, check_hours
from tgmembership_async.grants.follow_ups import OPEN, FollowUps
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import DECIDED_FROM, Decision, Grant, GrantRequest, GrantStatus, check_ref
from tgmembership_async.grants.transitions import known
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.settings import seconds
from tgmembership_async.values.models import AccessToken

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_DEFAULT_POLICY: Final = FulfillmentPolicy()
_FIRST_PAUSE: Final = 0.1  # after the ledger failed; it doubles each time
_LONGEST_PAUSE: Final = 5.0
_STILL_REFUNDABLE: Final = DECIDED_FROM["abandon"] | {GrantStatus.SENDING}


@frozen
class Pending:
    """Numbers of open rows: `planned` (or being sent), `undelivered` links, and `undecided` by the owner."""

    planned: int = 0
    undelivered: int = 0
    undecided: int = 0

    def __int__(self) -> int:
        return self.planned + self.undelivered + self.undecided

    def __bool__(self) -> bool:
        return int(self) > 0


class Fulfillment(AsyncResource):
    """Fulfill payments: each one that `take` records ends with a delivered link, or with a decision of the owner.

    `deliver` is an async function of the Grant that sends the link of a granted row to the customer. It is called, with
    backoff, until it returns without an exception; then the row is `delivered`. It may run again if the process died
    before the row was marked, but never twice at a time for one ref. `attention` is an async function of the Grant that
    notifies the owner of a row that only a person can decide (`refused`, `unknown`), that waits long (`planned`), or
    whose link cannot be delivered (`granted`): once per row and status, and again after `remind` hours.

    In the background, at the start and every `every` seconds, planned rows are granted and unknown rows reconciled.
    While the ledger cannot write, `take` retries for at most `deadline` seconds.

    Use it with `async with`, or call `open()` and `aclose()`, which may run in different tasks; it opens the granter
    unless that is open. With a PostgresLedger any number of processes may run a Fulfillment; each callback is called by
    one of them at a time. Raises UsageError for wrong values.
    """

    def __init__(
        self,
        granter: Granter,
        *,
        deliver: Callback,
        attention: Callback,
        every: float = 60.0,
        deadline: float = 60.0,
        remind: float = 24.0,
        policy: FulfillmentPolicy = _DEFAULT_POLICY,
        chance: Callable[[], float] = random,
    ) -> None:
        if not isinstance(granter, Granter) or not isinstance(granter.ledger, FollowUps):
            msg = "Fulfillment takes a Granter whose ledger keeps follow-ups, such as SqliteLedger or PostgresLedger"
            raise UsageError(msg)
        if not callable(deliver) or not callable(attention):
            msg = "deliver and attention must be async functions of a Grant"
            raise UsageError(msg)
        if not isinstance(policy, FulfillmentPolicy):
            msg = f"policy must be a FulfillmentPolicy, not {type(policy).__name__}"
            raise UsageError(msg)
        self._granter = granter
        self._attention = attention
        self._every = seconds("every", every)
        self._deadline = seconds("deadline", deadline)
        self._policy = policy
        self._callbacks = Callbacks(
            lambda: self._ledger,
            deliver=deliver,
            attention=attention,
            remind=check_hours("remind", remind),
            policy=policy,
            chance=chance,
        )
        self._background = Background()
        self._taken: deque[GrantRequest] = deque()
        self._opened_granter = False
        self._reconcile_at = -math.inf
        self._reconcile_pause = self._every

    @property
    def _ledger(self) -> FollowUps:
        # Asked each time: an open Granter has its bot's part of a ledger that several bots share.
        return cast("FollowUps", self._granter.ledger)

    @property
    def granter(self) -> Granter:
        """Return the Granter, for decisions."""
        return self._granter

    @property
    def is_open(self) -> bool:
        """Tell whether the Fulfillment is open."""
        return self._background.is_running

    async def open(self) -> Self:
        """Open the granter unless it is open, and start the background task."""
        if self.is_open:
            msg = "this Fulfillment is open already"
            raise UsageError(msg)
        if not self._granter.is_open:
            await self._granter.open()
            self._opened_granter = True
        self._background.start(
            {"grant": self._grant, "follow up": self._follow_up}, every=self._every, callbacks=self._callbacks
        )
        return self

    async def aclose(self) -> None:
        """Stop the background task, wait for running callbacks, and close the granter unless you opened it.

        Running exchanges are waited for as in `Granter.aclose`, callbacks for at most the policy's `timeout`. Open rows
        stay in the ledger, and continue after the next start.
        """
        try:
            await self._background.stop(self._policy.timeout)
        finally:
            if self._opened_granter:
                self._opened_granter = False
                with CancelScope(shield=True):
                    await self._granter.aclose()

    async def take(
        self,
        ref: str,
        *,
        plan_id: int,
        member_id: int | None = None,
        note: str = "",
        paid_at: datetime | None = None,
    ) -> Grant:
        """Record a payment durably, and return its row; it is granted and delivered in the background.

        Recording a ref again changes nothing. Raises StorageError if the ledger cannot write for `deadline` seconds: do
        not confirm the payment then. Raises RefConflict for another plan or member under this ref, and UsageError for a
        wrong argument.
        """
        self._check_open()
        request = GrantRequest(ref, plan_id, member_id, note, paid_at)
        grant = await self._planned(request)
        if grant.status is GrantStatus.PLANNED:
            self._begin(request)
        return grant

    def _begin(self, request: GrantRequest) -> None:
        self._taken.append(request)
        self._background.wake("grant")

    async def _planned(self, request: GrantRequest) -> Grant:
        end, pause = current_time() + self._deadline, _FIRST_PAUSE
        last = StorageError(
            f"{request.ref} could not be recorded within {self._deadline:g} s: do not confirm this payment"
        )
        with CancelScope(deadline=end):
            while True:
                try:
                    return await self._granter.plan(
                        request.ref,
                        plan_id=request.plan_id,
                        member_id=request.member_id,
                        note=request.note,
                        paid_at=request.paid_at,
                    )
                except StorageError as error:
                    _logger.warning("a payment cannot be recorded yet, and is retried: %s", error)
                    last = error
                await sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise last

    async def can_take(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109 - False where it passes, not an error
        """Tell whether the ledger can write now, proved by a small durable write within `timeout` seconds.

        Ask before a customer pays (a pre-checkout query, a checkout page): a payment that nothing can record is not
        to be accepted. It promises nothing for later: `take` still says itself whether it is durable.
        """
        self._check_open()
        with move_on_after(seconds("timeout", timeout)):
            try:
                await self._ledger.check_writable()
            except StorageError as error:
                _logger.warning("no payment can be recorded now: %s", error)
                return False
            return True
        _logger.warning("no payment can be recorded now: the ledger has not written anything for %g s", timeout)
        return False

    async def refunded(
        self, ref: str, *, plan_id: int, member_id: int | None = None, note: str = "", reason: str = "refunded"
    ) -> Grant:
        """Record that a payment was refunded; return its row.

        What was not granted yet is abandoned, a ref that is not there is planned and abandoned, so that it is not
        granted when its payment is told late. Where the customer has the access, or the link, that is for the owner to
        decide: `attention` gets the row, whose `error` says that it was refunded. Raises what `attention` raises,
        StorageError where the ledger cannot write, and GrantError where an exchange is under way for longer than
        `deadline`: record it again then.
        """
        self._check_open()
        grant = await self._ledger.get(check_ref(ref))
        if grant is None:
            grant = await self._granter.plan(ref, plan_id=plan_id, member_id=member_id, note=note)
        end, pause = current_time() + self._deadline, _FIRST_PAUSE
        while grant.status in _STILL_REFUNDABLE and current_time() < end:
            with suppress(GrantError):  # an exchange for it is under way: what that ends in decides
                return await self._granter.resolve(ref, "abandon", reason=reason)
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            grant = known(ref, await self._ledger.get(ref))
        if grant.status in _STILL_REFUNDABLE:
            msg = f"{ref} was {reason} and is {grant.status}: it may still be granted, so record the refund again"
            raise GrantError(msg)
        if grant.status is not GrantStatus.ABANDONED:
            msg = f"{ref} was {reason}, and is {grant.status}: take the access back, if the customer is to lose it"
            await self._attention(evolve(grant, error=GrantError(msg)))
        return grant

    async def decide(
        self, ref: str, decision: Decision, *, token: AccessToken | str | None = None, reason: str = ""
    ) -> Grant:
        """Decide about a row as `Granter.resolve` does, and begin at once with what follows from it."""
        self._check_open()
        grant = await self._granter.resolve(ref, decision, token=token, reason=reason)
        if grant.status is GrantStatus.PLANNED:
            self._begin(GrantRequest(ref, grant.plan_id, grant.member_id, grant.note))
        else:
            self._callbacks.enqueue(ref)
            self._background.wake("follow up")
        return grant

    async def pending(self) -> Pending:
        """Count the open rows; the result is true while there are any, and `int(pending)` is their number."""
        self._check_open()
        counts = dict.fromkeys(GrantStatus, 0)
        async for grant in self._granter.ledger.grants([*OPEN, GrantStatus.SENDING]):
            counts[grant.status] += 1
        return Pending(
            planned=counts[GrantStatus.PLANNED] + counts[GrantStatus.SENDING],
            undelivered=counts[GrantStatus.GRANTED],
            undecided=counts[GrantStatus.REFUSED] + counts[GrantStatus.UNKNOWN],
        )

    async def _grant(self, *, all_rows: bool) -> None:
        """Grant the newly recorded payments, or all planned ones, and reconcile unknown rows."""
        taken = [self._taken.popleft() for _ in range(len(self._taken))]
        concurrency = self._policy.concurrency
        run = (
            self._granter.run_planned(concurrency=concurrency)
            if all_rows
            else self._granter.provision(taken, concurrency=concurrency)
        )
        held = False
        async with run:
            async for grant in run:
                held = held or grant.status is GrantStatus.UNKNOWN
                self._callbacks.enqueue(grant.ref)
                self._background.wake("follow up")
        if run.stopped is not None:
            _logger.warning("granting is paused for %g s: %s", self._every, run.stopped)
        await self._reconcile(at_once=held)

    async def _reconcile(self, *, at_once: bool) -> None:
        """Reconcile unknown rows with the service, with backoff after each time."""
        if at_once:
            self._reconcile_pause = self._every
        elif current_time() < self._reconcile_at:
            return
        findings = await self._granter.reconcile()
        for finding in findings:
            if finding.settled:
                self._callbacks.enqueue(finding.grant.ref)
        self._background.wake("follow up")
        self._reconcile_at = current_time() + self._reconcile_pause
        self._reconcile_pause = min(2 * self._reconcile_pause, self._policy.backoff_cap)

    async def _follow_up(self, *, all_rows: bool) -> None:
        """Start the callbacks that are due, for queued rows, or for all open ones."""
        await self._callbacks.start_queued()
        if all_rows:
            async for grant in self._granter.ledger.grants(OPEN):
                await self._callbacks.start(grant.ref)

    def _check_open(self) -> None:
        if not self.is_open:
            msg = "the Fulfillment is not open: use `async with Fulfillment(...) as fulfillment:`"
            raise UsageError(msg)
