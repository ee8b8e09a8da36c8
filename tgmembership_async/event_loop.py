"""Which event loop runs this code."""

import asyncio
import sys


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
