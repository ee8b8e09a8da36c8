"""Work in the background, on asyncio and on trio: steps that repeat, until they are stopped."""

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from anyio import CancelScope, Event, create_task_group, move_on_after

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.event_loop import asyncio_loop
from tgmembership_async.fulfillment.callbacks import Callbacks

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_LEAVING_TAKES_AT_MOST: Final = 5.0


class Step(Protocol):
    """A step that repeats: for all rows when its time has come, and for what is new when it is woken."""

    async def __call__(self, *, all_rows: bool) -> None:
        """Carry it out once."""
        ...


class Background:
    """Run steps in a task of their own, each when it is woken and at the latest every so many seconds."""

    def __init__(self) -> None:
        self._news: dict[str, Event] = {}
        self._steps: CancelScope | None = None
        self._everything: CancelScope | None = None
        self._over: Event | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether it was started and not stopped since."""
        return self._over is not None

    def start(self, steps: Mapping[str, Step], *, every: float, callbacks: Callbacks) -> None:
        """Start the steps on the running event loop."""
        self._over = over = Event()
        self._news = {name: Event() for name in steps}
        self._steps, self._everything = CancelScope(), CancelScope()

        async def work() -> None:
            try:
                await self._work(steps, every, callbacks)
            except Exception:  # on trio it would end the program
                _logger.critical("fulfillment has ended, and goes on only after the next start", exc_info=True)
            finally:
                over.set()

        loop = asyncio_loop()
        if loop is not None:
            self._task: Any = loop.create_task(work(), name="tgmembership fulfillment")
        else:
            import trio  # noqa: PLC0415 - it runs already

            trio.lowlevel.spawn_system_task(work, name="tgmembership fulfillment")

    def wake(self, name: str) -> None:
        """Say that there is something new for a step."""
        if name in self._news:
            self._news[name].set()

    async def stop(self, grace: float) -> None:
        """End the steps, let callbacks end for `grace` seconds, and cancel what still runs."""
        over, self._over = self._over, None
        if over is None or self._steps is None or self._everything is None:
            return
        self._steps.cancel()
        try:
            with move_on_after(grace):
                await over.wait()
        finally:
            self._everything.cancel()
            with move_on_after(_LEAVING_TAKES_AT_MOST, shield=True):
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
            self._news[name] = news = Event()
            try:
                await step(all_rows=all_rows)
            except TGMembershipError as error:
                _logger.warning("%s: it is tried again in %g s at the latest: %s", name, every, error)
            except Exception:
                _logger.exception("%s failed, and is tried again in %g s at the latest", name, every)
            with move_on_after(every) as patience:
                await news.wait()
            all_rows = patience.cancelled_caught
