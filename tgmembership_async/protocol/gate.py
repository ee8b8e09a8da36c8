"""When may the next request leave? A pause that the service told, and a rate (GCRA). The clock is handed in."""

from math import isfinite
from typing import Protocol, Self, runtime_checkable

from attrs import field, frozen

from tgmembership_async.errors import UsageError


@frozen
class RateLimit:
    """At most `calls` requests in any `per_seconds` seconds of a steady stream; as many at once after a rest."""

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
        """Return the seconds between two requests of a steady stream."""
        return self.per_seconds / self.calls

    @property
    def burst(self) -> float:
        """Return by how many seconds a request may be ahead of the steady stream."""
        return self.per_seconds - self.interval


class Gate:
    """What all calls of a Session wait for. Times are seconds on the clock of whoever asks."""

    __slots__ = ("_arrival", "_burst", "_interval", "limit", "paused_until")

    def __init__(self, limit: RateLimit | None = None) -> None:
        self.paused_until: float = float("-inf")
        self.limit: RateLimit | None = limit
        self._interval = 0.0 if limit is None else limit.interval
        self._burst = 0.0 if limit is None else limit.burst
        self._arrival = float("-inf")

    @property
    def limited(self) -> bool:
        """Tell whether there is a rate at all."""
        return self._interval > 0

    def pause(self, until: float) -> None:
        """Let nobody through before `until`; a pause is only ever made longer."""
        self.paused_until = max(self.paused_until, until)

    def rate_wait(self, now: float) -> float:
        """Return the seconds until the rate allows another request, 0 or less if it does now."""
        return self._arrival - self._burst - now

    def take(self, now: float) -> None:
        """Count a request that leaves now."""
        self._arrival = max(self._arrival, now) + self._interval


@frozen
class Told:
    """What a shared gate says, in seconds from now: how long everybody pauses, or else when this request may leave."""

    pause: float = 0.0
    wait: float = 0.0


@runtime_checkable
class SharedGate(Protocol):
    """What all calls of a bot wait for, in whatever process; a Session that is given one has a gate of its own besides.

    Neither `ask` nor `pause` raises, nor takes more than a moment: where the state is out of reach `ask` returns None,
    and the Session keeps to its own gate.
    """

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        ...

    async def open(self) -> Self:
        """Make it ready, or raise what is wrong with it."""
        ...

    async def aclose(self) -> None:
        """Let go."""
        ...

    async def ask(self, bot_id: int, limit: RateLimit | None) -> Told | None:
        """Count a request that leaves after the wait that is told; with a pause, or without a limit, nothing counts."""
        ...

    async def pause(self, bot_id: int, seconds: float) -> None:
        """Let nobody through for so many seconds; a pause is only ever made longer."""
        ...
