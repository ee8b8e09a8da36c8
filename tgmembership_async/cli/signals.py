"""Ctrl-C and SIGTERM, once kindly."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from anyio import CancelScope

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(told: Callable[[], object]) -> Generator[CancelScope]:
    """Yield a scope that the first Ctrl-C or SIGTERM cancels, and call `told`; the second ends the process at once.

    Works in the main thread under asyncio, on every platform.
    """
    loop = asyncio.get_running_loop()
    scope = CancelScope()

    def end() -> None:
        scope.cancel()
        told()

    def strike(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(end)

    before = {number: signal.signal(number, strike) for number in _SIGNALS}
    try:
        with scope:
            yield scope
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
