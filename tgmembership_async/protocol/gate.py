"""Decide when the next request may be sent: rate limit (GCRA) and pauses. Pure; the time is passed in."""

from math import isfinite
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.renamed import former_names


@frozen
class RateLimit:
    """At most `calls` requests per `per_seconds` seconds, with bursts of up to `calls` requests after idle time."""

    calls: int = field()
    per_seconds: float = field()

    def __attrs_post_init__(self) -> None:
        if isinstance(self.calls, bool) or not isinstance(self.calls, int) or self.calls < 1:
            msg = f"RateLimit.calls must be an int of at least 1, not {self.calls!r}"
            raise UsageError(msg)
        seconds = self.per_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isfinite(seconds) or seconds <= 0:
            msg = f"RateLimit.per_seconds must be a number above 0, not {seconds!r}"
            raise UsageError(msg)

    @property
    def interval(self) -> float:
        """Return the seconds between two requests at the limit."""
        return self.per_seconds / self.calls

    @property
    def burst(self) -> float:
        """Return how many seconds ahead of the steady rate a request may be sent."""
        return self.per_seconds - self.interval


class Gate:
    """The rate limit and the pause of one Session. Times are seconds on the caller's clock."""

    __slots__ = ("_arrival", "_burst", "_interval", "limit", "paused_until")

    def __init__(self, limit: RateLimit | None = None) -> None:
        self.paused_until: float = float("-inf")
        self.limit: RateLimit | None = limit
        self._interval = 0.0 if limit is None else limit.interval
        self._burst = 0.0 if limit is None else limit.burst
        self._arrival = float("-inf")

    @property
    def limited(self) -> bool:
        """Tell whether there is a rate limit."""
        return self._interval > 0

    def pause(self, until: float) -> None:
        """Pause until `until`; an earlier pause that ends later stays."""
        self.paused_until = max(self.paused_until, until)

    def rate_wait(self, now: float) -> float:
        """Return the seconds until the rate limit allows another request; 0 or less if it does now."""
        return self._arrival - self._burst - now

    def take(self, now: float) -> None:
        """Count a request that is sent now."""
        self._arrival = max(self._arrival, now) + self._interval


@frozen
class GateReply:
    """The reply of a shared gate, in seconds from now: the rest of a pause, or the wait before this request is sent."""

    pause: float = 0.0
    wait: float = 0.0


@runtime_checkable
class SharedGate(Protocol):
    """The rate limit and the pause of one bot, shared by all its processes; each Session also has a gate of its own.

    `ask` and `pause` never raise and return quickly: if the shared state is not reachable, `ask` returns None and the
    Session uses its own gate only.
    """

    @property
    def is_open(self) -> bool:
        """Tell whether the gate is open."""
        ...

    async def open(self) -> Self:
        """Open the gate; raise UsageError or StorageError if that is not possible."""
        ...

    async def aclose(self) -> None:
        """Close the gate."""
        ...

    async def ask(self, bot_id: int, limit: RateLimit | None) -> GateReply | None:
        """Count a request, which is sent after the returned wait; during a pause or without `limit`, count nothing."""
        ...

    async def pause(self, bot_id: int, seconds: float) -> None:
        """Pause for `seconds`; an earlier pause that ends later stays."""
        ...


if not TYPE_CHECKING:  # pragma: no branch - type checkers see the new name only
    __getattr__ = former_names(__name__, Told=GateReply)
