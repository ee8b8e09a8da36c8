"""Wait for what other threads, tasks or processes do and tell nobody."""

import time
from collections.abc import Callable

import anyio
import pytest


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Block until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"it did not happen within {seconds:g} seconds")
        time.sleep(0.01)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait in a task until a condition holds."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for sets no event
            await anyio.sleep(0.002)
