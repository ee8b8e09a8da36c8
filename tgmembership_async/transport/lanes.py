"""The connection pool: lanes of one connection each, the warmest first; a lane that did not end cleanly is thrown away.

Whoever takes a lane already holds one of the Session's `max_connections` places (see `middleware.Queue`, a FIFO), so
that there is always room: a lane is taken from the stack or made, never waited for.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar
from warnings import warn
from weakref import finalize

from anyio import CancelScope, current_time

from tgmembership_async.descriptors import is_short

KEEP_ALIVE: Final = 5.0
"""Seconds for which a connection may have been idle to carry a request."""
KEEP_ALIVE_UNSAFE: Final = 1.0
"""The same for an unsafe one: the service may be about to close it, and the answer would be lost."""
_PROOF: Final = 0.05
"""Seconds that a connection must have stayed open after an answer, to prove that the service does not close it."""
_CLOSING_TAKES_AT_MOST: Final = 1.0


class Closable(Protocol):
    """What a lane is made of: one connection at most."""

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class Lane(Closable, Protocol):
    """What the stack holds."""

    def is_idle(self) -> bool:
        """Tell whether the connection can carry another request: it is open, and has nothing to read."""
        ...

    def drop(self) -> bool:
        """Close the connection from outside its event loop, if it does not close itself once nobody knows it any more;
        tell whether that was needed.
        """  # noqa: D205 - the condition belongs to it
        ...


L = TypeVar("L", bound=Lane)
T = TypeVar("T")


class Lanes(Generic[L]):
    """A stack of warm lanes.

    Some services close each connection after an answer without announcing it. Until a connection proves that this one
    does not, unsafe requests get new connections: on one that is just being closed their outcome would be unknown.
    """

    __slots__ = ("__weakref__", "_closed", "_idle", "_make", "_stays_open")

    def __init__(self, make: Callable[[], L]) -> None:
        self._make = make
        self._idle: list[tuple[L, float]] = []
        self._closed = False
        self._stays_open = False
        finalize(self, _dropped, self._idle).atexit = False

    @property
    def idle(self) -> int:
        """Return how many lanes wait for use."""
        return len(self._idle)

    async def lend(self, use: Callable[[L], Awaitable[tuple[T, bool]]], *, unsafe: bool) -> T:
        """Return what `use` returns for a lane; it comes back only if `use` says that the exchange ended cleanly.

        A lane is replaced that was idle for too long, or does not prove itself idle.
        """
        lane = await self._take(unsafe=unsafe)
        clean = False
        try:
            answer, clean = await use(lane)
        except Exception as error:
            if is_short(error):
                await self._close_idle()  # whoever tries again needs what they hold
            raise
        finally:
            surplus = unsafe and not self._stays_open and bool(self._idle)  # one is enough for the proof
            if clean and not surplus and not self._closed:
                self._idle.append((lane, monotonic()))
            else:
                await discard(lane)
        return answer

    async def _take(self, *, unsafe: bool) -> L:
        if not self._idle or (unsafe and not self._stays_open and not await self._prove()):
            return self._make()
        lane, since = self._idle.pop()
        if monotonic() - since <= (KEEP_ALIVE_UNSAFE if unsafe else KEEP_ALIVE):
            if lane.is_idle():
                return lane
            self._stays_open = False
        await discard(lane)
        return self._make()

    async def _prove(self) -> bool:
        """Look at the lane that was idle for longest, and tell whether the service left its connection open."""
        lane, since = self._idle[0]
        if monotonic() - since < _PROOF:
            return False
        self._stays_open = lane.is_idle()
        if self._stays_open:
            return True
        del self._idle[0]
        await discard(lane)
        return False  # another call may have proved it meanwhile, and taken the last lane

    async def aclose(self) -> None:
        """Close all idle lanes, now, and each lane in use when its exchange ends."""
        self._closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            lane, _ = self._idle.pop()
            await discard(lane)


def _dropped(idle: list[tuple[L, float]]) -> None:
    """Close what a Session left open that was dropped without being closed, and say so; in whatever thread."""
    number = sum(lane.drop() for lane, _ in idle)
    idle.clear()
    if number:
        msg = f"a Session was dropped unclosed, with {number} open connection(s): use `async with`, or await aclose()"
        warn(msg, ResourceWarning, stacklevel=1)


async def discard(lane: Closable) -> None:
    """Close a lane, whoever is cancelled meanwhile; what closing a broken connection may still raise is not told."""
    with CancelScope(shield=True, deadline=current_time() + _CLOSING_TAKES_AT_MOST), suppress(Exception):
        await lane.aclose()
