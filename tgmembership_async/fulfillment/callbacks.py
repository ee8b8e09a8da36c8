"""The user's callbacks: each at most once at a time for a ref, again after a while where it failed."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from anyio import Event, Semaphore, fail_after, get_cancelled_exc_class, move_on_after, sleep
from anyio.abc import TaskGroup

from tgmembership_async.errors import GrantError, StorageError, TGMembershipError
from tgmembership_async.event_loop import cancelled_by_nobody
from tgmembership_async.fulfillment.policy import FulfillmentPolicy
from tgmembership_async.grants.follow_ups import FollowUp, FollowUps
from tgmembership_async.grants.model import Grant, GrantStatus

Callback = Callable[[Grant], Awaitable[object]]

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_MARGIN: Final = timedelta(seconds=30)  # of a lease, beyond the time that a callback may take
_FIRST_PAUSE: Final = 0.1  # after the ledger failed; doubled each time
_LONGEST_PAUSE: Final = 30.0
_LONGEST_WAIT_HERE: Final = 60.0


class Callbacks:
    """Call `deliver` and `attention` for rows whose follow-up is due, and keep in the ledger what became of it."""

    def __init__(
        self,
        ledger: Callable[[], FollowUps],
        *,
        deliver: Callback,
        attention: Callback,
        remind: float,
        policy: FulfillmentPolicy,
        chance: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._deliver = deliver
        self._attention = attention
        self._remind = timedelta(seconds=remind)
        self._policy = policy
        self._chance = chance
        self._handed: dict[str, None] = {}
        self._running: set[str] = set()
        self._group: TaskGroup | None = None
        self._places: Semaphore | None = None
        self._ending: Event | None = None

    def begin(self, group: TaskGroup) -> None:
        """Run callbacks in this group from now on."""
        self._group = group
        self._places = Semaphore(self._policy.concurrency)
        self._ending = Event()

    def end(self) -> None:
        """Begin nothing more; nobody waits for a backoff any longer."""
        self._group = None
        if self._ending is not None:
            self._ending.set()

    def hand(self, ref: str) -> None:
        """Note a row whose follow-up may be due; `start_handed` starts it."""
        self._handed[ref] = None

    async def start_handed(self) -> None:
        """Start the follow-ups of the rows that were handed over since, as places become free."""
        while self._handed:
            ref = next(iter(self._handed))
            await self.start(ref)
            self._handed.pop(ref, None)

    async def start(self, ref: str) -> None:
        """Start the follow-up of a row, if it is due and nobody has it, as soon as a place is free."""
        if self._group is None or self._places is None or ref in self._running:
            return
        await self._places.acquire()
        self._running.add(ref)
        self._group.start_soon(self._carry_out, ref)

    async def _carry_out(self, ref: str) -> None:
        """Hold a place while the callback runs. A short backoff is waited for here, a long one not."""
        assert self._places is not None  # noqa: S101 - begun
        assert self._ending is not None  # noqa: S101 - begun
        wait: float | None = None
        try:
            while True:
                try:
                    wait = await self._attempt(ref)
                except TGMembershipError as error:
                    _logger.warning("%s: the ledger fails, and the follow-up is tried again: %s", ref, error)
                finally:
                    self._places.release()
                if wait is None or wait > _LONGEST_WAIT_HERE:
                    return
                with move_on_after(wait):
                    await self._ending.wait()
                    return
                await self._places.acquire()
        finally:
            self._running.discard(ref)

    async def _attempt(self, ref: str) -> float | None:
        """Follow one row up, if it is due, and return the seconds until the next attempt; None if there is none."""
        lease = timedelta(seconds=self._policy.timeout) + _MARGIN
        grace = timedelta(seconds=self._policy.overdue)
        follow_up = await self._ledger().begin_follow_up(ref, lease=lease, grace=grace)
        if follow_up is None:
            return None
        if follow_up.grant.status is GrantStatus.GRANTED:
            return await self._hand_over(follow_up)
        return await self._ask(follow_up)

    async def _hand_over(self, follow_up: FollowUp) -> float | None:
        grant = follow_up.grant
        if await self._succeeds("deliver", self._deliver, grant):
            await self._insist(lambda: self._ledger().mark_delivered(grant.ref), grant)
            await self._insist(lambda: self._ledger().end_follow_up(follow_up), grant)
            return None
        failures = follow_up.failures + 1
        if failures % self._policy.tell_after == 0:
            await self._succeeds("attention", self._attention, grant)
        return await self._put_off(follow_up, failures)

    async def _ask(self, follow_up: FollowUp) -> float | None:
        if await self._succeeds("attention", self._attention, follow_up.grant):
            due_at = datetime.now(UTC) + self._remind
            await self._insist(lambda: self._ledger().put_off(follow_up, failures=0, due_at=due_at), follow_up.grant)
            return None
        return await self._put_off(follow_up, follow_up.failures + 1)

    async def _put_off(self, follow_up: FollowUp, failures: int) -> float:
        wait = self._policy.backoff(failures, self._chance())
        due_at = datetime.now(UTC) + timedelta(seconds=wait)
        await self._insist(lambda: self._ledger().put_off(follow_up, failures=failures, due_at=due_at), follow_up.grant)
        return wait

    async def _succeeds(self, name: str, callback: Callback, grant: Grant) -> bool:
        """Call a callback, and tell whether it returned; what it raises may hold a link, and is not shown."""
        try:
            with fail_after(self._policy.timeout):
                await callback(grant)
        except get_cancelled_exc_class():
            if not cancelled_by_nobody():
                raise
            _logger.warning("%s: %s let a cancellation of its own out; it is called again", grant.ref, name)
        except Exception as error:  # noqa: BLE001 - one broken row stops nobody else
            _logger.warning("%s: %s raised %s; it is called again", grant.ref, name, type(error).__name__)
        else:
            return True
        return False

    async def _insist(self, write: Callable[[], Awaitable[object]], grant: Grant) -> None:
        """Write what was done, as often as the ledger wants: what is done must not be done again for its sake."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await write()
            except StorageError as error:
                _logger.warning("%s: what was done cannot be recorded yet: %s", grant.ref, error)
            except GrantError:
                return  # somebody has decided otherwise meanwhile
            else:
                return
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
