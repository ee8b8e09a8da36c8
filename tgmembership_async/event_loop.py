"""Which event loop runs this code."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

_RUNNING: Final[set[asyncio.Task[Any]]] = set()
"""Tasks in the background: an event loop keeps no reference to its tasks."""


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio event loop that runs this code; None where trio does, be it as the guest of such a loop."""
    if "trio" in sys.modules:
        import trio  # noqa: PLC0415 - loaded already

        if trio.lowlevel.in_trio_task():
            return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def cancelled_by_nobody() -> bool:
    """Tell whether asyncio's CancelledError came out of what a callback awaited, and nobody cancelled its task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # trio, where that cannot be
    return task is not None and not task.cancelling()


def in_background(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in a task that belongs to the event loop alone; it must not raise but when cancelled."""
    loop = asyncio_loop()
    if loop is None:
        import trio  # noqa: PLC0415 - loaded already

        trio.lowlevel.spawn_system_task(function)
        return
    task = loop.create_task(_awaited(function))
    _RUNNING.add(task)
    task.add_done_callback(_RUNNING.discard)


async def _awaited(function: Callable[[], Awaitable[None]]) -> None:
    await function()
