"""Pass entries of an inbox to the handlers, with a limited number of attempts for each entry."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from random import random
from typing import Final, Protocol

from anyio import CancelScope, create_task_group, get_cancelled_exc_class, move_on_after, sleep
from anyio import Event as Signal
from anyio.abc import TaskGroup
from attrs import evolve

from tgmembership_async.errors import Unreadable
from tgmembership_async.event_loop import is_stray_cancellation
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.storage.until_stored import recurs, until_stored
from tgmembership_async.webhooks.events import Event, read_event
from tgmembership_async.webhooks.handlers import Handlers, HandlingResult
from tgmembership_async.webhooks.inbox import Entry, EntryStatus, Inbox, Verdict
from tgmembership_async.webhooks.policy import HandlingPolicy

_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_LONGEST_WAIT: Final = 60.0  # the clock may jump, and another process may call `retry`
_FIRST_PAUSE: Final = 1.0  # after a failure of the inbox; doubled each time
_LONGEST_PAUSE: Final = 30.0
_PURGE_INTERVAL: Final = 3_600.0
_RELEASE_TIMEOUT: Final = 1.0  # less than a closing Receiver waits for its task


class Join(Protocol):
    """Adds to an event what its delivery does not contain."""

    async def explain(self, event: Event, *, may_wait: bool) -> Event | str:
        """Return the event to handle. With `may_wait`, it may return the reason for waiting instead."""
        ...


class Worker:
    """Processes due entries of an inbox. `clock` returns unix seconds, `chance` a number from 0 to 1."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        policy: HandlingPolicy,
        *,
        join: Join | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random,
    ) -> None:
        self._inbox = inbox
        self._handlers = handlers
        self._policy = policy
        self._join = join
        self._clock = clock
        self._chance = chance
        self._wake_up: Signal | None = None
        self._running = 0
        self._ending = False
        self._idle = Signal()
        self._purge_at = 0.0

    def wake(self) -> None:
        """Make `run` look for due entries now."""
        if self._wake_up is not None:
            self._wake_up.set()

    def end(self) -> None:
        """Claim no more entries. `run` returns when the running handlers have ended."""
        self._ending = True
        self.wake()

    async def ended(self) -> None:
        """Wait after `end` until no handler is running, whoever called `run` or `process_pending`."""
        if self._running:
            self._idle = Signal()
            await self._idle.wait()

    async def run(self) -> None:
        """Process entries when they are due, until `end` is called or the inbox is closed."""
        pause = _FIRST_PAUSE
        async with create_task_group() as group:
            while not self._ending and self._inbox.is_open:
                self._wake_up = Signal()
                try:
                    if not await self._start_due(group):
                        await self._wait()
                    pause = _FIRST_PAUSE
                except Exception:
                    if self._ending:
                        return  # the inbox was closed in the meantime
                    _logger.exception("the inbox fails; its entries are processed when it works again")
                    await sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)

    async def process_pending(self) -> int:
        """Process entries until none is due, or until `end` is called, and return the number of attempts."""
        count = 0
        while not self._ending and (entries := await self._claim(self._policy.concurrency)):
            count += len(entries)
            async with create_task_group() as group:
                self._start(group, entries)
        return count

    async def _start_due(self, group: TaskGroup) -> bool:
        free = self._policy.concurrency - self._running
        entries = await self._claim(free) if free > 0 else []
        self._start(group, entries)
        return bool(entries)

    async def _claim(self, limit: int) -> list[Entry]:
        """Claim due entries; a cancellation waits until those that are claimed can be stored again."""
        entries: list[Entry] = []
        self._running += 1
        try:
            with CancelScope(shield=True):
                entries = await self._inbox.claim(limit, self._now())
            self._running += len(entries)
        finally:
            self._leave()
        return entries

    def _leave(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def _start(self, group: TaskGroup, entries: Sequence[Entry]) -> None:
        for entry in entries:
            group.start_soon(self._process, entry)

    async def _wait(self) -> None:
        """Wait for a wake-up, for a handler to end, or until the next entry is due."""
        await self._purge()
        due = await self._inbox.next_due() if self._running < self._policy.concurrency else None
        wait = _LONGEST_WAIT if due is None else (due - self._now()).total_seconds()
        if self._wake_up is not None and not self._ending:
            with move_on_after(min(wait, _LONGEST_WAIT)):
                await self._wake_up.wait()

    async def _purge(self) -> None:
        if self._clock() >= self._purge_at:
            self._purge_at = self._clock() + _PURGE_INTERVAL
            await self._inbox.purge(self._now() - timedelta(seconds=self._policy.keep))

    async def _process(self, entry: Entry) -> None:
        try:
            verdict = await self._attempt(entry)
            await self._record(entry, verdict)
        except get_cancelled_exc_class():
            with move_on_after(_RELEASE_TIMEOUT, shield=True), suppress(Exception):  # else the next opening does it
                again = Verdict(EntryStatus.STORED, entry.handled, "the attempt was cancelled", self._now())
                await self._inbox.settle(entry.id, again)
            raise
        finally:
            self._leave()
            self.wake()

    async def _attempt(self, entry: Entry) -> Verdict:
        if entry.attempts > self._policy.max_attempts:
            return self._verdict(
                entry, HandlingResult(entry.handled, (entry.note or "the process died in the last attempt",))
            )
        try:
            event = evolve(read_event(entry.delivery, entry.received_at), attempt=entry.attempts)
            explained = await self._explained(entry, event)
            if isinstance(explained, str):
                return self._waiting(entry, explained)
            result = await self._handlers.dispatch(explained, timeout=self._policy.handler_timeout, done=entry.handled)
        except Unreadable as error:
            return Verdict(EntryStatus.UNREADABLE, note=str(error))
        except get_cancelled_exc_class():
            if not is_stray_cancellation():
                raise
            result = HandlingResult(entry.handled, ("a cancellation was raised that nobody requested",))
        except Exception as error:  # one failing entry must not stop the others
            _logger.exception("delivery %d could not be processed", entry.id)
            result = HandlingResult(entry.handled, (f"{type(error).__name__} was raised",))
        return self._verdict(entry, result)

    async def _explained(self, entry: Entry, event: Event) -> Event | str:
        if self._join is None:
            return event
        return await self._join.explain(event, may_wait=entry.waits < self._policy.max_waits)

    def _waiting(self, entry: Entry, reason: str) -> Verdict:
        """Return the verdict on an entry that waits, which is no attempt: no handler has run."""
        waits = entry.waits + 1
        due_at = self._now() + timedelta(seconds=self._policy.backoff(waits, self._chance()))
        note = f"waits for its payment: {reason}"
        return Verdict(EntryStatus.STORED, entry.handled, note, due_at, attempts=entry.attempts - 1, waits=waits)

    def _verdict(self, entry: Entry, result: HandlingResult) -> Verdict:
        note = "; ".join(result.problems)
        if not result.problems:
            return Verdict(EntryStatus.DONE, result.done)
        if entry.attempts >= self._policy.max_attempts:
            name = printable(entry.name or "")
            _logger.error("delivery %d (%s) is dead after %d attempts: %s", entry.id, name, entry.attempts, note)
            return Verdict(EntryStatus.DEAD, result.done, note)
        wait = timedelta(seconds=self._policy.backoff(entry.attempts, self._chance()))
        return Verdict(EntryStatus.STORED, result.done, note, self._now() + wait)

    async def _record(self, entry: Entry, verdict: Verdict) -> None:
        """Write the verdict, and repeat this while the disk fails, so that a handled event is not handled again."""

        def failed(error: Exception) -> None:
            _logger.error("the result of delivery %d cannot be written", entry.id, exc_info=error)
            if self._ending or recurs(error):
                raise error

        settle = partial(self._inbox.settle, entry.id, verdict)
        with suppress(Exception):  # `failed` has logged it
            await until_stored(settle, failed, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
