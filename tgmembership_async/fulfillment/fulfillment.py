"""The Fulfillment: record a payment durably, grant it once, deliver the link, and ask the owner for decisions."""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from random import random
from typing import Final, Self, cast

from anyio import CancelScope, move_on_after
from attrs import asdict, evolve

from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.fulfillment.background import Background, Step
from tgmembership_async.fulfillment.callbacks import STATUSES, Callback, Callbacks, Kind
from tgmembership_async.fulfillment.granting import Granting, Reconciling
from tgmembership_async.fulfillment.pending import Pending, count_pending
from tgmembership_async.fulfillment.policy import FulfillmentPolicy, check_hours
from tgmembership_async.fulfillment.refunds import abandon
from tgmembership_async.grants.follow_ups import FollowUps
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Decision, Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.transitions import request_of
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.settings import seconds
from tgmembership_async.storage.until_stored import until_stored
from tgmembership_async.values.models import AccessToken

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_DEFAULT_POLICY: Final = FulfillmentPolicy()
_FIRST_PAUSE: Final = 0.1  # after the ledger failed; it doubles each time
_LONGEST_PAUSE: Final = 5.0


class Fulfillment(AsyncResource):
    """Fulfill payments: each one that `take` records ends with a delivered link, or with a decision of the owner.

    `deliver` is an async function of the Grant that sends the link of a granted row to the customer. It is called, with
    backoff, until it returns without an exception; then the row is `delivered`. It may run again if the process died
    before the row was marked, but never twice at a time for one ref. `attention` is an async function of the Grant that
    notifies the owner of a row that only a person can decide (`refused`, `unknown`), that waits long (`planned`), or
    whose link cannot be delivered (`granted`): once per row and status, and again after `remind` hours.

    In the background, new payments are granted at once, and unknown rows reconciled, with backoff; all planned rows are
    granted at the start and every `every` seconds. Rejected credentials, an empty retry budget, and many unknown
    outcomes in a row pause granting for this time. While the ledger cannot write, `take` retries for at most `deadline`
    seconds.

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
        self._background = Background()
        self._callbacks = Callbacks(
            lambda: self._ledger,
            deliver=deliver,
            attention=attention,
            remind=check_hours("remind", remind),
            policy=policy,
            chance=chance,
            wake=self._background.wake,
        )
        self._reconciling = Reconciling(granter, policy, self._callbacks.enqueue, every=self._every)
        self._granting = Granting(granter, policy, self._callbacks.enqueue, self._reconcile, every=self._every)
        self._opened_granter = False

    @property
    def _ledger(self) -> FollowUps:
        # Read each time: an open Granter has its bot's part of a ledger that several bots share.
        return cast("FollowUps", self._granter.ledger)

    @property
    def granter(self) -> Granter:
        """Return the Granter, for decisions."""
        return self._granter

    @property
    def is_open(self) -> bool:
        """Tell whether the Fulfillment is open, and its background task runs."""
        return self._background.is_running

    async def open(self) -> Self:
        """Open the granter unless it is open, and start the background task."""
        if self.is_open:
            msg = "this Fulfillment is open already"
            raise UsageError(msg)
        if not self._granter.is_open:
            await self._granter.open()
            self._opened_granter = True
        steps: dict[str, Step] = {kind: partial(self._follow_up, kind) for kind in STATUSES}
        steps |= {"grant": self._granting.step, "reconcile": self._reconciling.step}
        self._background.start(steps, every=self._every, callbacks=self._callbacks)
        return self

    async def stop(self) -> None:
        """Stop the background task and wait for running callbacks, for at most the policy's `timeout`.

        Use it to end the callbacks before you close what they use. The granter stays open until `aclose`.
        """
        await self._background.stop(self._policy.timeout)

    async def aclose(self) -> None:
        """Do what `stop` does, and close the granter unless you opened it.

        Running exchanges are waited for as in `Granter.aclose`. Open rows stay in the ledger, and continue after the
        next start.
        """
        try:
            await self.stop()
        finally:
            if self._opened_granter:
                self._opened_granter = False
                with CancelScope(shield=True):
                    await self._granter.aclose()

    async def take(
        self,
        ref: str,
        *,
        plan_id: int | str,
        member_id: int | None = None,
        note: str = "",
        paid_at: datetime | None = None,
    ) -> Grant:
        """Record a payment durably, and return its row; it is granted and delivered in the background.

        Recording a ref again changes nothing. Raises StorageError if the ledger cannot write for `deadline` seconds, or
        if the background task has crashed: do not confirm the payment then. Raises RefConflict for another plan or
        member under this ref, and UsageError for a wrong argument.
        """
        self._check_open()
        request = GrantRequest(ref, plan_id, member_id, note, paid_at)
        grant = await self._planned(request)
        if grant.status is GrantStatus.PLANNED:
            self._begin(request)
        return grant

    def _begin(self, request: GrantRequest) -> None:
        self._granting.take(request)
        self._background.wake("grant")

    async def _planned(self, request: GrantRequest) -> Grant:
        last: Exception = StorageError(
            f"{request.ref} could not be recorded within {self._deadline:g} s: do not confirm this payment"
        )

        def failed(error: Exception) -> None:
            nonlocal last
            if not isinstance(error, StorageError):
                raise error
            last = error
            _logger.warning("a payment cannot be recorded yet, and is retried: %s", error)

        plan = partial(self._granter.plan, **asdict(request))
        with move_on_after(self._deadline):
            return await until_stored(plan, failed, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        raise last

    async def can_take(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109 - False if it passes, not an error
        """Tell whether the ledger can write now, proved by a small durable write within `timeout` seconds.

        Ask before a customer pays (a pre-checkout query, a checkout page): a payment that cannot be recorded must not
        be accepted. The result holds for now only: `take` still reports whether the payment is durable.
        """
        with move_on_after(seconds("timeout", timeout)):
            try:
                self._check_open()
                await self._ledger.check_writable()
            except StorageError as error:
                _logger.warning("no payment can be recorded now: %s", error)
                return False
            return True
        _logger.warning("no payment can be recorded now: the ledger has not written anything for %g s", timeout)
        return False

    async def refunded(
        self, ref: str, *, plan_id: int | str, member_id: int | None = None, note: str = "", reason: str = "refunded"
    ) -> Grant:
        """Record that a payment was refunded; return its row.

        A row that was not granted yet is abandoned. A new ref is planned and abandoned, so that it is not granted if
        the payment event arrives later. If the customer has the access or the link, the owner has to decide:
        `attention` is called with the row, whose `error` says that it was refunded. Raises what `attention` raises,
        StorageError if the ledger cannot write, and GrantError if an exchange is under way for longer than
        `deadline`: record it again then.
        """
        self._check_open()
        request = GrantRequest(ref, plan_id, member_id, note)
        grant = await abandon(self._granter, request, reason=reason, deadline=self._deadline)
        if grant.status is not GrantStatus.ABANDONED:
            msg = f"{ref} was {reason}, and is {grant.status}: take the access back, if the customer is to lose it"
            await self._attention(evolve(grant, error=GrantError(msg)))
        return grant

    async def decide(
        self, ref: str, decision: Decision, *, token: AccessToken | str | None = None, reason: str = ""
    ) -> Grant:
        """Decide about a row as `Granter.resolve` does, and start the follow-up at once."""
        self._check_open()
        grant = await self._granter.resolve(ref, decision, token=token, reason=reason)
        if grant.status is GrantStatus.PLANNED:
            self._begin(request_of(grant))
        else:
            self._callbacks.enqueue(grant)
        return grant

    async def pending(self) -> Pending:
        """Count the open rows; the result is true while there are any, and `int(pending)` is their number."""
        self._check_open()
        return await count_pending(self._granter.ledger)

    def _reconcile(self) -> None:
        self._reconciling.hurry()
        self._background.wake("reconcile")

    async def _follow_up(self, kind: Kind, *, all_rows: bool) -> None:
        """Start the callbacks that are due, for queued rows, or for all rows, the queued ones before any other."""
        await self._callbacks.start_queued(kind)
        if all_rows:
            async for grant in self._granter.ledger.grants(STATUSES[kind]):
                await self._callbacks.start(grant.ref, kind)
                await self._callbacks.start_queued(kind)

    def _check_open(self) -> None:
        if not self.is_open:
            if self._background.has_crashed:  # no UsageError, after which aiogram would confirm the payment
                msg = "fulfillment has crashed, see the log: do not confirm this payment, and start the program again"
                raise StorageError(msg)
            msg = "the Fulfillment is not open: use `async with Fulfillment(...) as fulfillment:`"
            raise UsageError(msg)
