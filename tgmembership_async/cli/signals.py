"""Ctrl-C, SIGTERM and the end of the terminal: the first one ends a command in order."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from anyio import CancelScope

_AT_ONCE: Final = ("SIGTERM", "SIGBREAK")
"""What ends the process at once when it comes again; SIGBREAK is Ctrl-Break, or the end of the console, on Windows."""
_HANGUP: Final = "SIGHUP"
"""The terminal has ended. It often comes twice, from the shell and from the kernel, and so never ends at once."""


@contextmanager
def interruptible(told: Callable[[], object]) -> Generator[CancelScope]:
    """Yield a scope that the first Ctrl-C, SIGTERM, SIGHUP or SIGBREAK cancels, and call `told`.

    A second one ends the process at once, except for SIGHUP. Works in the main thread under asyncio, on every platform.
    """
    loop = asyncio.get_running_loop()
    scope = CancelScope()

    def end() -> None:
        scope.cancel()
        with suppress(OSError):  # the terminal is gone
            told()

    with _handled({signal.SIGINT: signal.SIG_DFL} | _endings(), lambda: loop.call_soon_threadsafe(end)), scope:
        yield scope


@contextmanager
def endings_interrupt() -> Generator[None]:
    """Have SIGTERM, SIGHUP and SIGBREAK end what runs inside as Ctrl-C does: with what is in flight finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled(_endings(), lambda: signal.raise_signal(signal.SIGINT)):
        yield


def _endings() -> dict[signal.Signals, signal.Handlers]:
    """Return the signals besides SIGINT that end a command here, each with what it does when it comes again."""
    found = {signal.Signals[name]: signal.SIG_DFL for name in _AT_ONCE if hasattr(signal, name)}
    if hasattr(signal, _HANGUP) and signal.getsignal(signal.Signals[_HANGUP]) is not signal.SIG_IGN:  # as by nohup
        found[signal.Signals[_HANGUP]] = signal.SIG_IGN
    return found


@contextmanager
def _handled(endings: Mapping[signal.Signals, signal.Handlers], act: Callable[[], object]) -> Generator[None]:
    """Call `act` in the handler of the first of these signals that comes."""
    struck = False

    def strike(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
        nonlocal struck
        struck = True
        for each, then in endings.items():
            signal.signal(each, then)
        act()

    before = {number: signal.signal(number, strike) for number in endings}
    try:
        yield
    finally:
        for number, handler in before.items():
            # What is ignored when it comes again may still come while the command finishes what is in flight.
            if not (struck and endings[number] is signal.SIG_IGN):
                signal.signal(number, handler)
