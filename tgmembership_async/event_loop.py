"""Find out which event loop is running, and start tasks on it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from anyio.lowlevel import checkpoint

_RUNNING: Final[set[asyncio.Task[Any]]] = set()
"""Strong references to background tasks: an asyncio event loop keeps only weak ones."""


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio event loop, or None on trio, also in trio's guest mode on an asyncio loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    # Asyncio has no task while trio runs as its guest; asking trio itself takes four times as long.
    if "trio" in sys.modules and asyncio.current_task(loop) is None:
        import trio  # noqa: PLC0415 - imported already

        return None if trio.lowlevel.in_trio_task() else loop
    return loop


def is_stray_cancellation() -> bool:
    """Tell whether a CancelledError was raised without a request to cancel the current asyncio task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # on trio this cannot happen
    return task is not None and not task.cancelling()


def cancellations() -> int:
    """Return how often the current asyncio task was cancelled; 0 on trio."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()


async def repeat_cancellation(before: int) -> None:
    """Raise the cancellation of the current task that a cancel scope took for its own, if there was one.

    anyio does so if its deadline and `task.cancel()` meet in one step of the event loop. `before` is the number of
    `cancellations` when the scope was entered.
    """
    await checkpoint()  # the cancellation of an outer scope
    if cancellations() > before:
        raise asyncio.CancelledError


def in_background(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in a background task; it must not raise anything but its cancellation."""
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
