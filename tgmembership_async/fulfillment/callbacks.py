"""Call the user's callbacks: at most one at a time per ref, with backoff after a failure.

Links and questions have queues and slots of their own: no link waits for an owner's chat that hangs, nor the other way
round.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from anyio import Event, Semaphore, move_on_after
from anyio.abc import TaskGroup

from tgmembership_async.errors import GrantError, TGMembershipError
from tgmembership_async.fulfillment.policy import FulfillmentPolicy
from tgmembership_async.grants.follow_ups import OPEN, FollowUp, FollowUps
from tgmembership_async.grants.model import Grant, GrantStatus
from tgmembership_async.storage.until_stored import recurs, until_stored
from tgmembership_async.user_calls import failure_of

Callback = Callable[[Grant], Awaitable[object]]
Kind = Literal["deliver", "attention"]
STATUSES: Final[Mapping[Kind, tuple[GrantStatus, ...]]] = {
    "deliver": (GrantStatus.GRANTED,),
    "attention": tuple(status for status in OPEN if status is not GrantStatus.GRANTED),
}
"""The statuses of the rows that each callback is for."""

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_MARGIN: Final = timedelta(seconds=30)  # of a lease, beyond the timeouts of both callbacks
_FIRST_PAUSE: Final = 0.1  # after the ledger failed; doubled each time
_LONGEST_PAUSE: Final = 30.0
_LONGEST_WAIT_HERE: Final = 60.0


class Callbacks:
    """Call `deliver` and `attention` for rows whose follow-up is due, and record the results in the ledger."""

    def __init__(
        self,
        ledger: Callable[[], FollowUps],
        *,
        deliver: Callback,
        attention: Callback,
        remind: float,
        policy: FulfillmentPolicy,
        chance: Callable[[], float],
        wake: Callable[[Kind], object],
    ) -> None:
        self._ledger = ledger
        self._deliver = deliver
        self._attention = attention
        self._remind = timedelta(seconds=remind)
        self._policy = policy
        self._chance = chance
        self._wake = wake
        self._queued: dict[Kind, dict[str, None]] = {kind: {} for kind in STATUSES}
        self._running: dict[str, Event] = {}  # set when its row has changed
        self._group: TaskGroup | None = None
        self._slots: dict[Kind, Semaphore] = {}

    def begin(self, group: TaskGroup) -> None:
        """Start callbacks in this task group from now on."""
        self._group = group
        self._slots = {kind: Semaphore(self._policy.concurrency) for kind in STATUSES}

    def end(self) -> None:
        """Start no more callbacks, and stop waiting for backoffs."""
        self._group = None
        for changed in self._running.values():
            changed.set()

    def enqueue(self, grant: Grant) -> None:
        """Queue a row whose follow-up may be due, and start it as soon as a slot is free and it is not running."""
        kind: Kind = "deliver" if grant.status in STATUSES["deliver"] else "attention"
        self._queued[kind][grant.ref] = None
        if grant.ref in self._running:
            self._running[grant.ref].set()
        else:
            self._wake(kind)

    async def start_queued(self, kind: Kind) -> None:
        """Start the follow-ups of queued rows, as slots become free; one that is running stays queued until its end."""
        while ref := next((ref for ref in self._queued[kind] if ref not in self._running), None):
            await self.start(ref, kind)

    async def start(self, ref: str, kind: Kind) -> None:
        """Start the follow-up of a row as soon as a slot is free, unless it is running."""
        assert self._group is not None  # noqa: S101 - begun
        if ref in self._running:
            return
        await (slots := self._slots[kind]).acquire()
        if ref in self._running:  # for the other callback
            slots.release()
            return
        self._queued[kind].pop(ref, None)
        self._running[ref] = Event()
        self._group.start_soon(self._run, ref, kind)

    async def _run(self, ref: str, kind: Kind) -> None:
        """Make an attempt, and queue the row again after a short backoff; a longer one is left to the next interval."""
        try:
            wait = await self._attempt_in_slot(ref, kind)
            if wait is not None and wait <= _LONGEST_WAIT_HERE:
                with move_on_after(wait) as backoff:
                    await self._running[ref].wait()
                if backoff.cancelled_caught:
                    self._queued[kind][ref] = None
        finally:
            del self._running[ref]
            for queued in STATUSES:
                if ref in self._queued[queued]:
                    self._wake(queued)

    async def _attempt_in_slot(self, ref: str, kind: Kind) -> float | None:
        """Make an attempt, and release the slot, so that no row waits for the next one while it is `_running`."""
        try:
            return await self._attempt(ref)
        except TGMembershipError as error:
            _logger.warning("%s: the ledger failed, and the follow-up is retried: %s", ref, error)
        except Exception:  # one failing row must not stop the others
            _logger.exception("%s: the ledger failed, and the follow-up is retried", ref)
        finally:
            self._slots[kind].release()
        return None

    async def _attempt(self, ref: str) -> float | None:
        """Call the callback for one row if it is due; return the seconds until the next attempt, or None."""
        lease = timedelta(seconds=2 * self._policy.timeout) + _MARGIN
        grace = timedelta(seconds=self._policy.overdue)
        follow_up = await self._ledger().begin_follow_up(ref, lease=lease, grace=grace)
        if follow_up is None:
            return None
        if follow_up.grant.status is GrantStatus.GRANTED:
            return await self._call_deliver(follow_up)
        return await self._call_attention(follow_up)

    async def _call_deliver(self, follow_up: FollowUp) -> float | None:
        grant = follow_up.grant
        if await self._succeeds("deliver", self._deliver, grant):
            await self._record(lambda: self._ledger().mark_delivered(grant.ref), grant)
            await self._record(lambda: self._ledger().end_follow_up(follow_up), grant)
            return None
        failures = follow_up.failures + 1
        if failures % self._policy.tell_after == 0:
            await self._succeeds("attention", self._attention, grant)
        return await self._postpone(follow_up, failures)

    async def _call_attention(self, follow_up: FollowUp) -> float | None:
        if await self._succeeds("attention", self._attention, follow_up.grant):
            due_at = datetime.now(UTC) + self._remind
            await self._record(lambda: self._ledger().postpone(follow_up, failures=0, due_at=due_at), follow_up.grant)
            return None
        return await self._postpone(follow_up, follow_up.failures + 1)

    async def _postpone(self, follow_up: FollowUp, failures: int) -> float:
        wait = self._policy.backoff(failures, self._chance())
        due_at = datetime.now(UTC) + timedelta(seconds=wait)
        await self._record(
            lambda: self._ledger().postpone(follow_up, failures=failures, due_at=due_at), follow_up.grant
        )
        return wait

    async def _succeeds(self, name: str, callback: Callback, grant: Grant) -> bool:
        """Call a callback, and tell whether it returned; its exception may contain a link, and is not shown."""
        error = await failure_of(callback, grant, self._policy.timeout)
        if error is not None:
            _logger.warning("%s: %s raised %s; it is called again", grant.ref, name, type(error).__name__)
        return error is None

    async def _record(self, write: Callable[[], Awaitable[object]], grant: Grant) -> None:
        """Write a result, retrying until the ledger stores it: otherwise the callback would run again."""

        def failed(error: Exception) -> None:
            if recurs(error):
                raise error
            _logger.warning("%s: the result cannot be recorded yet, and is retried: %s", grant.ref, error)

        with suppress(GrantError):  # the owner has decided about it in the meantime
            await until_stored(write, failed, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
