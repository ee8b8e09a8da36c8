"""Wake coroutines from a thread, on asyncio and on trio, with one call into each event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from tgmembership_async.event_loop import asyncio_loop

Soon = Callable[..., object]
"""Run a function with its arguments in an event loop, called from any thread: `soon(function, *arguments)`."""
_IN_ONE_TURN: Final = 64


class Woken(Protocol):
    """An object that a thread wakes: `wake` is called in the event loop of `soon`, and must not raise."""

    soon: Soon

    def wake(self) -> None:
        """Go on in the event loop."""
        ...


class Waiter(Woken, Protocol):
    """A coroutine that waits for a thread; `wake` ends the wait, and is harmless after it."""

    def wait(self) -> Awaitable[object]:
        """Return what to await; to be asked and awaited once, in the event loop that made the waiter."""
        ...


def waiter() -> Waiter:
    """Return a waiter for the coroutine that runs now."""
    loop = asyncio_loop()
    return _TrioWaiter() if loop is None else _AsyncioWaiter(loop)


def running_loop() -> Soon:
    """Return how to call into the event loop that runs now."""
    loop = asyncio_loop()
    return _trio_loop() if loop is None else loop.call_soon_threadsafe


def _trio_loop() -> Soon:
    import trio  # noqa: PLC0415 - loaded already

    return trio.lowlevel.current_trio_token().run_sync_soon


def wake_all(waiters: Iterable[Woken]) -> None:
    """Wake coroutines from another thread. The call into a loop costs more than waking, so each loop gets one."""
    by_loop: dict[Soon, list[Woken]] = {}
    for one in waiters:
        by_loop.setdefault(one.soon, []).append(one)
    for soon, together in by_loop.items():
        _ask(soon, together)


def _ask(soon: Soon, together: list[Woken]) -> None:
    # Both asyncio and trio raise this for a loop that has ended; then there is no wait.
    with suppress(RuntimeError):
        soon(_wake, together)


def _wake(together: list[Woken]) -> None:
    # All that are woken in one turn of the loop run in the next one, and nothing else does until they have.
    for one in together[:_IN_ONE_TURN]:
        one.wake()
    if late := together[_IN_ONE_TURN:]:
        _ask(late[0].soon, late)


class _AsyncioWaiter:
    __slots__ = ("_future", "soon")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.soon: Soon = loop.call_soon_threadsafe
        self._future: asyncio.Future[None] = loop.create_future()

    def wait(self) -> Awaitable[object]:
        return self._future

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class _TrioWaiter:
    __slots__ = ("_event", "soon")

    def __init__(self) -> None:
        import trio  # noqa: PLC0415 - loaded already

        self.soon: Soon = _trio_loop()
        self._event = trio.Event()

    def wait(self) -> Awaitable[object]:
        return self._event.wait()

    def wake(self) -> None:
        self._event.set()
