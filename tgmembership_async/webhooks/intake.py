"""The two ways to process an authentic delivery: handle it before the response, or store it before the response."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from anyio import move_on_after
from anyio.lowlevel import current_token

from tgmembership_async.errors import Unreadable, UsageError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.events import identify, read_event
from tgmembership_async.webhooks.handlers import Handlers
from tgmembership_async.webhooks.inbox import Arrival, EntryStatus, Inbox
from tgmembership_async.webhooks.policy import HandlingPolicy
from tgmembership_async.webhooks.replay import MemoryReplay
from tgmembership_async.webhooks.signature import Delivery
from tgmembership_async.webhooks.worker import Worker

if TYPE_CHECKING:
    from tgmembership_async.webhooks.joining import PaymentJoin

_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_CANCEL_TIMEOUT: Final = 2.0


class DirectIntake:
    """Handles an event before the response. If a handler fails, the response is 500, and the service repeats."""

    ready = True

    def __init__(self, handlers: Handlers, policy: HandlingPolicy, replay: MemoryReplay) -> None:
        self._handlers = handlers
        self._policy = policy
        self._replay = replay

    async def take(self, delivery: Delivery, received_at: datetime) -> Answer:
        """Run the handlers, unless the event was handled before."""
        try:
            event = read_event(delivery, received_at)
        except Unreadable as error:
            _logger.warning("%s", error)
            return answers.UNREADABLE
        keys = (delivery.digest, event.fingerprint) if self._policy.repeat_window else (delivery.digest,)
        if not await self._replay.reserve(keys):
            return answers.OK
        handled = False
        try:
            result = await self._handlers.dispatch(event, timeout=self._policy.handler_timeout)
            handled = not result.problems
        finally:
            (self._replay.commit if handled else self._replay.release)(keys)
        return answers.OK if handled else answers.FAILED


class StoredIntake:
    """Stores a delivery before the response, and handles it later; on asyncio in a task if `background` is set."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        policy: HandlingPolicy,
        *,
        join: "PaymentJoin | None" = None,
        background: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._inbox = inbox
        self._join = join
        self._handlers = handlers
        self._policy = policy
        self._background = background
        self._clock = clock
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: object = None
        self._opened_inbox = False

    @property
    def ready(self) -> bool:
        """Tell whether it is open."""
        return self._worker is not None

    @property
    def worker(self) -> Worker:
        """Return the worker. Raises UsageError if the Receiver is not open, or was opened on another event loop."""
        if self._worker is None:
            msg = "the Receiver is not open: use `async with receiver:`, or await receiver.open() first"
            raise UsageError(msg)
        if _running_loop() != self._loop:
            msg = "the Receiver was opened on another event loop: open it where the server runs"
            raise UsageError(msg)
        return self._worker

    async def take(self, delivery: Delivery, received_at: datetime) -> Answer:
        """Store the delivery, unless it is stored already; its event is read when it is handled."""
        worker = self.worker
        try:
            arrival = Arrival(delivery, received_at, *identify(delivery))
        except Unreadable as error:
            _logger.warning("%s", error)
            arrival = Arrival(delivery, received_at, note=str(error))
        try:
            receipt = await self._inbox.store(arrival, repeat_window=self._policy.repeat_window)
        except Exception:  # the disk failed, or the inbox was closed by its owner
            _logger.exception("a delivery could not be stored; the service is asked to send it again")
            return answers.NOT_STORED
        finally:
            worker.wake()  # also after a cancellation: a write in progress is completed
        if receipt.new and receipt.status is EntryStatus.REPEAT:
            _logger.info("an event was repeated with another signature; it was stored, and is not handled again")
        return answers.UNREADABLE if receipt.status is EntryStatus.UNREADABLE else answers.OK

    async def open(self) -> None:
        """Open the inbox unless it is open, and begin to handle its entries."""
        if self._worker is not None:
            msg = "this Receiver is open already"
            raise UsageError(msg)
        try:
            if not self._inbox.is_open:
                await self._inbox.open()
                self._opened_inbox = True
            if self._join is not None:
                await self._join.open()
        except BaseException:
            await self._close_opened()
            raise
        self._loop = _running_loop()
        self._worker = Worker(self._inbox, self._handlers, self._policy, join=self._join, clock=self._clock)
        if self._background and (loop := asyncio_loop()) is not None:
            self._task = loop.create_task(self._worker.run(), name="tgmembership inbox")
            self._task.add_done_callback(self._report)

    async def aclose(self) -> None:
        """Wait at most `handler_timeout` seconds for running handlers, and close what was opened here."""
        worker, self._worker = self._worker, None
        task, self._task = self._task, None
        try:
            if worker is not None:
                worker.end()
            if task is not None:
                await _finish(task, self._policy.handler_timeout)
            elif worker is not None:
                with move_on_after(self._policy.handler_timeout):
                    await worker.ended()
        finally:
            await self._close_opened()

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None or (task is self._task and self._inbox.is_open):
            _logger.critical(
                "the task that handles events has ended; they are stored, and events are handled again after the next"
                " start",
                exc_info=error,
            )

    async def _close_opened(self) -> None:
        try:
            if self._join is not None:
                await self._join.aclose()
        finally:
            if self._opened_inbox:
                self._opened_inbox = False
                await self._inbox.aclose()


def _running_loop() -> object:
    """Return an identity of the running event loop; anyio takes five times as long on asyncio."""
    return asyncio_loop() or current_token()


async def _finish(task: asyncio.Task[Any], seconds: float) -> None:
    """Wait for a task, and cancel it after this time, or if the caller is cancelled."""
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)
    if not task.done():
        _logger.error("a handler ignores its cancellation; the Receiver closes without waiting for it")
