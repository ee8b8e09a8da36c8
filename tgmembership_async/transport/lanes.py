"""The connection pool: lanes of one connection each, the warmest first; a lane that did not end cleanly is thrown away.

Whoever takes a lane already holds one of the Session's `max_connections` places (see `middleware.Queue`, a FIFO), so
that there is always room: a lane is taken from the stack or made, never waited for.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from anyio import CancelScope, current_time

from tgmembership_async.protocol.wire import Request

KEEP_ALIVE: Final = 5.0
KEEP_ALIVE_UNSAFE: Final = 1.0
_CLOSING_TAKES_AT_MOST: Final = 1.0


class Closable(Protocol):
    """What a lane is made of: one connection at most."""

    async def aclose(self) -> None:
        """Close the connection."""
        ...


L = TypeVar("L", bound=Closable)
T = TypeVar("T")


class Lanes(Generic[L]):
    """A stack of warm lanes."""

    __slots__ = ("_closed", "_idle", "_make")

    def __init__(self, make: Callable[[], L]) -> None:
        self._make = make
        self._idle: list[tuple[L, float]] = []
        self._closed = False

    @property
    def idle(self) -> int:
        """Return how many lanes wait for use."""
        return len(self._idle)

    async def lend(self, use: Callable[[L], Awaitable[tuple[T, bool]]], *, max_idle: float) -> T:
        """Return what `use` returns for a lane; it comes back only if `use` says that the exchange ended cleanly.

        A lane that was idle for more than `max_idle` seconds is replaced: the service may be about to close it.
        """
        lane = await self._take(max_idle)
        clean = False
        try:
            answer, clean = await use(lane)
        finally:
            if clean and not self._closed:
                self._idle.append((lane, monotonic()))
            else:
                await _discard(lane)
        return answer

    async def _take(self, max_idle: float) -> L:
        if self._idle:
            lane, since = self._idle.pop()
            if monotonic() - since <= max_idle:
                return lane
            await _discard(lane)
        return self._make()

    async def aclose(self) -> None:
        """Close all idle lanes, now, and each lane in use when its exchange ends."""
        self._closed = True
        while self._idle:
            lane, _ = self._idle.pop()
            await _discard(lane)


def max_idle(request: Request) -> float:
    """Return for how many seconds a connection may have been idle to carry `request`: what grants wants a fresh one."""
    return KEEP_ALIVE if request.timeouts.exchange is None else KEEP_ALIVE_UNSAFE


async def _discard(lane: Closable) -> None:
    # Nobody waits for what closing a broken connection may still raise.
    with CancelScope(shield=True, deadline=current_time() + _CLOSING_TAKES_AT_MOST), suppress(Exception):
        await lane.aclose()
