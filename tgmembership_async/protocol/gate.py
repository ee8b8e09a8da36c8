"""When may the next request leave? A pause that the service told, and a rate (GCRA). The clock is handed in."""

from math import isfinite

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


class Gate:
    """What all calls of a Session wait for. Times are seconds on the clock of whoever asks."""

    __slots__ = ("_arrival", "_burst", "_interval", "paused_until")

    def __init__(self, limit: RateLimit | None = None) -> None:
        self.paused_until = float("-inf")
        self._interval = 0.0 if limit is None else limit.per_seconds / limit.calls
        self._burst = 0.0 if limit is None else limit.per_seconds - self._interval
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
