"""The connection pool: a stack of idle lanes with one connection each. A lane is discarded if its exchange failed.

A caller already holds one of the Session's `max_connections` slots (see `admission.Admission`), so it never waits for
a lane: one is taken from the stack or created.
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
"""Maximum idle time in seconds of a connection that is reused for a request."""
KEEP_ALIVE_UNSAFE: Final = 1.0
"""The same for an unsafe request, whose outcome would be unknown if the service closed the connection meanwhile."""
SHARED: Final = "this transport sends for another Session or Project already: give each a transport of its own"
_PROVEN_AFTER: Final = 0.05
"""Seconds for which a connection must stay open after a reply to prove that the service keeps connections open."""
_CLOSE_TIMEOUT: Final = 1.0


class Closable(Protocol):
    """An object with at most one connection to close."""

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class Lane(Closable, Protocol):
    """One connection in the pool, or none yet."""

    def is_idle(self) -> bool:
        """Tell whether the connection can be reused: it is open, and has no unread data."""
        ...

    def drop(self) -> bool:
        """Close the connection from any thread; return False if garbage collection closes it instead."""
        ...


L = TypeVar("L", bound=Lane)
T = TypeVar("T")


class Lanes(Generic[L]):
    """A stack of idle lanes.

    Some services close each connection after a reply without announcing it. Unsafe requests get new connections until
    one has stayed open after a reply: on a connection that is being closed, their outcome would be unknown.
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
        """Return the number of idle lanes."""
        return len(self._idle)

    async def run(self, exchange: Callable[[L], Awaitable[tuple[T, bool]]], *, unsafe: bool) -> T:
        """Call `exchange` with a lane and return its result; the lane is reused only if it also returns True.

        A lane that was idle for too long, or that cannot be reused, is replaced.
        """
        lane = await self._take(unsafe=unsafe)
        reusable = False
        try:
            answer, reusable = await exchange(lane)
        except Exception as error:
            if is_short(error):
                await self._close_idle()  # frees their file descriptors for the next attempt
            raise
        finally:
            surplus = unsafe and not self._stays_open and bool(self._idle)  # one idle lane is enough to prove it
            if reusable and not surplus and not self._closed:
                self._idle.append((lane, monotonic()))
            else:
                await discard(lane)
        return answer

    async def _take(self, *, unsafe: bool) -> L:
        if not self._idle or (unsafe and not self._stays_open and not await self._prove()):
            return self._make()
        lane, since = self._idle.pop()
        idle_for = monotonic() - since
        if idle_for <= (KEEP_ALIVE_UNSAFE if unsafe else KEEP_ALIVE):
            if lane.is_idle():
                self._stays_open = self._stays_open or idle_for >= _PROVEN_AFTER
                return lane
            self._stays_open = False
        await discard(lane)
        return self._make()

    async def _prove(self) -> bool:
        """Tell whether the service left the connection of the longest idle lane open."""
        lane, since = self._idle[0]
        if monotonic() - since < _PROVEN_AFTER:
            return False
        self._stays_open = lane.is_idle()
        if self._stays_open:
            return True
        del self._idle[0]
        await discard(lane)
        return False  # also if another call has set `_stays_open` meanwhile: it may have taken the last idle lane

    async def aclose(self) -> None:
        """Close all idle lanes now, and each lane in use at the end of its exchange."""
        self._closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            lane, _ = self._idle.pop()
            await discard(lane)


def _dropped(idle: list[tuple[L, float]]) -> None:
    """Close the connections of a Session that was garbage collected without aclose(), and warn; in any thread."""
    number = sum(lane.drop() for lane, _ in idle)
    idle.clear()
    if number:
        msg = f"a Session with {number} open connection(s) was not closed: use `async with`, or await aclose()"
        warn(msg, ResourceWarning, stacklevel=1)


async def discard(lane: Closable) -> None:
    """Close a lane, shielded from cancellation; exceptions while closing a broken connection are suppressed."""
    with CancelScope(shield=True, deadline=current_time() + _CLOSE_TIMEOUT), suppress(Exception):
        await lane.aclose()
