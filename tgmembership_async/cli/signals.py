"""Graceful shutdown of a command on the first Ctrl-C, SIGTERM, SIGHUP or SIGBREAK."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from anyio import CancelScope

_TERMINATING: Final = ("SIGTERM", "SIGBREAK")
"""The second of these ends the process at once. SIGBREAK is Ctrl-Break, or a closed console, on Windows."""
_HANGUP: Final = "SIGHUP"
"""The terminal was closed. The shell and the kernel may both send it, so the second one does nothing."""


@contextmanager
def interruptible(interrupted: Callable[[], object]) -> Generator[CancelScope]:
    """Yield a scope that the first Ctrl-C, SIGTERM, SIGHUP or SIGBREAK cancels; then `interrupted` is called.

    A second one ends the process at once, except for SIGHUP. Requires the main thread and asyncio.
    """
    loop = asyncio.get_running_loop()
    scope = CancelScope()

    def cancel() -> None:
        scope.cancel()
        with suppress(OSError):  # the terminal was closed
            interrupted()

    with (
        _handled({signal.SIGINT: signal.SIG_DFL} | _termination_signals(), lambda: loop.call_soon_threadsafe(cancel)),
        scope,
    ):
        yield scope


@contextmanager
def endings_interrupt() -> Generator[None]:
    """Handle SIGTERM, SIGHUP and SIGBREAK as Ctrl-C, so that the command can finish requests in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _blocked_if_ignored(), _handled(_termination_signals(), _interrupt):
        yield


@contextmanager
def _blocked_if_ignored() -> Generator[None]:
    """Block SIGINT if it is ignored, as in a background job of a script: an event loop does not handle it otherwise."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)
    if hasattr(signal, "pthread_sigmask"):
        # Afterwards: a Ctrl-C that came while SIGINT was blocked is then the same signal, and no second one.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _termination_signals() -> dict[signal.Signals, signal.Handlers]:
    """Return the signals besides SIGINT that end a command, each with the handler for the second one."""
    found = {signal.Signals[name]: signal.SIG_DFL for name in _TERMINATING if hasattr(signal, name)}
    if hasattr(signal, _HANGUP) and signal.getsignal(signal.Signals[_HANGUP]) is not signal.SIG_IGN:  # as by nohup
        found[signal.Signals[_HANGUP]] = signal.SIG_IGN
    return found


@contextmanager
def _handled(second: Mapping[signal.Signals, signal.Handlers], act: Callable[[], object]) -> Generator[None]:
    """Call `act` in the handler of the first of these signals; then install the handlers of `second`."""
    received = False

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
        nonlocal received
        received = True
        for each, handler in second.items():
            signal.signal(each, handler)
        act()

    before = {number: signal.signal(number, handle) for number in second}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A signal that is ignored from the second time on may still come while the command ends.
            if not (received and second[number] is signal.SIG_IGN):
                signal.signal(number, handler)
