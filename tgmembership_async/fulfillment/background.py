"""Run repeating steps in a background task, on asyncio and on trio."""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from anyio import CancelScope, Event, create_task_group, move_on_after

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.fulfillment.callbacks import Callbacks

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_CANCEL_TIMEOUT: Final = 5.0


class Step(Protocol):
    """A repeating step: for all rows at each interval, and for new rows when it is woken."""

    async def __call__(self, *, all_rows: bool) -> None:
        """Run the step once."""
        ...


class Background:
    """Run steps in one background task, each when it is woken, and at least once per interval."""

    def __init__(self) -> None:
        self._wakeups: dict[str, Event] = {}
        self._steps: CancelScope | None = None
        self._everything: CancelScope | None = None
        self._over: Event | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether the steps are running."""
        return self._over is not None and not self._over.is_set() and not self._is_stopped

    @property
    def has_crashed(self) -> bool:
        """Tell whether the steps have ended although nobody stopped them."""
        return self._over is not None and self._over.is_set() and not self._is_stopped

    @property
    def _is_stopped(self) -> bool:
        return self._steps is not None and self._steps.cancel_called

    def start(self, steps: Mapping[str, Step], *, every: float, callbacks: Callbacks) -> None:
        """Start the steps on the running event loop."""
        self._over = over = Event()
        self._wakeups = {name: Event() for name in steps}
        self._steps, self._everything = stopped, _ = CancelScope(), CancelScope()

        async def work() -> None:
            error: BaseException | None = None
            try:
                await self._work(steps, every, callbacks)
            except (Exception, BaseExceptionGroup) as raised:  # noqa: BLE001 - on trio, it would crash the program
                error = raised
            finally:
                if error is not None or not stopped.cancel_called:
                    _logger.critical("fulfillment has crashed, and does not run until the next start", exc_info=error)
                over.set()

        loop = asyncio_loop()
        if loop is not None:
            self._task: Any = loop.create_task(work(), name="tgmembership fulfillment")
        else:
            import trio  # noqa: PLC0415 - imported already

            trio.lowlevel.spawn_system_task(work, name="tgmembership fulfillment")

    def wake(self, name: str) -> None:
        """Run a step now: it has new rows."""
        if name in self._wakeups:
            self._wakeups[name].set()

    async def stop(self, grace: float) -> None:
        """Stop the steps, wait for running callbacks for at most `grace` seconds, and cancel the rest."""
        over, everything = self._over, self._everything
        if over is None or self._steps is None or everything is None:
            return
        self._steps.cancel()
        try:
            with move_on_after(grace):
                await over.wait()
        finally:
            everything.cancel()
            with move_on_after(_CANCEL_TIMEOUT, shield=True):
                await over.wait()

    async def _work(self, steps: Mapping[str, Step], every: float, callbacks: Callbacks) -> None:
        assert self._steps is not None  # noqa: S101 - started
        assert self._everything is not None  # noqa: S101 - started
        with self._everything:
            async with create_task_group() as group:
                callbacks.begin(group)
                with self._steps:
                    async with create_task_group() as repeating:
                        for name, step in steps.items():
                            repeating.start_soon(self._repeat, name, step, every)
                callbacks.end()

    async def _repeat(self, name: str, step: Step, every: float) -> None:
        all_rows = True
        while True:
            self._wakeups[name] = woken = Event()
            try:
                await step(all_rows=all_rows)
            except TGMembershipError as error:
                _logger.warning("the step %r failed, and is retried within %g s: %s", name, every, error)
            except Exception:
                _logger.exception("the step %r failed, and is retried within %g s", name, every)
            with move_on_after(every) as interval:
                await woken.wait()
            all_rows = interval.cancelled_caught
