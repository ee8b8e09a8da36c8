"""The answers of a run, recorded while its workers go on with other rows."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from anyio import CancelScope, Event, create_task_group

from tgmembership_async.grants.claiming import Claiming
from tgmembership_async.grants.exchange import Shared, record_answer
from tgmembership_async.grants.model import Grant, Settlement

if TYPE_CHECKING:
    from tgmembership_async.grants.ledger import SettlesLater


class Recorder:
    """Records answers in a ledger that settles later, and calls `recorded` with each exchange, which has ended then.

    A worker whose answer is taken claims the next row behind it. So no more rows are `sending`, and no more answers are
    in memory only, than there are workers.
    """

    def __init__(self, recorded: Callable[[Shared], object]) -> None:
        self._recorded = recorded
        self._recording = 0
        self._failed: deque[tuple[Shared, Claiming, Settlement]] = deque()
        self._is_over = False
        self._changed: Event | None = None

    def take(self, shared: Shared, hold: Claiming, settlement: Settlement) -> bool:
        """Record an answer without a task that waits; return False if its worker has to record it."""
        done = partial(self._settled, shared, hold, settlement)
        try:
            cast("SettlesLater", hold.ledger).settle_later(shared.request.ref, settlement, done)
        except Exception:  # noqa: BLE001 - `settle` raises the same error again
            return False
        self._recording += 1
        return True

    def end(self) -> None:
        """Let `work` return when all answers are recorded."""
        self._is_over = True
        self._wake()

    async def work(self) -> None:
        """Record one by one what the ledger could not settle later, also when this is cancelled."""
        with CancelScope(shield=True):
            async with create_task_group() as group:
                while self._recording or not self._is_over:
                    while self._failed:
                        group.start_soon(self._record, *self._failed.popleft())
                    self._changed = Event()
                    await self._changed.wait()

    def _settled(self, shared: Shared, hold: Claiming, settlement: Settlement, grant: Grant | None) -> None:
        if grant is None:
            self._failed.append((shared, hold, settlement))  # no task can be started here: `work` does
            self._wake()
        else:
            shared.grant = grant
            self._end(shared)

    async def _record(self, shared: Shared, hold: Claiming, settlement: Settlement) -> None:
        try:
            await record_answer(shared, hold, settlement)
        finally:
            self._end(shared)

    def _end(self, shared: Shared) -> None:
        self._recording -= 1
        shared.end()
        self._recorded(shared)
        if self._is_over and not self._recording:
            self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
