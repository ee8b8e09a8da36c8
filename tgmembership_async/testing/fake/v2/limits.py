"""The rate limits of a fake project: calls per minute, and calls per second (*documented*)."""

from collections import deque
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen

_MINUTE: Final = timedelta(minutes=1)
_SECOND: Final = timedelta(seconds=1)


@frozen
class Allowance:
    """The rest of the limit after a call. `wait` is 0 if it was allowed, else the seconds until the next is."""

    limit: int
    remaining: int
    reset: int
    wait: float = 0.0

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of the reply; that `X-RateLimit-Reset` is in unix seconds is *assumed*."""
        headers = (
            ("x-ratelimit-limit", str(self.limit)),
            ("x-ratelimit-remaining", str(self.remaining)),
            ("x-ratelimit-reset", str(self.reset)),
        )
        return (*headers, ("retry-after", f"{self.wait:.3f}")) if self.wait else headers


class RateLimits:
    """Counts the calls of the last minute. None is no limit."""

    def __init__(self, per_minute: int | None, burst: int | None) -> None:
        self._per_minute = per_minute
        self._burst = burst
        self._calls: deque[datetime] = deque()

    def take(self, now: datetime) -> Allowance | None:
        """Count a call; None if there is no limit per minute and the burst is allowed."""
        calls = self._calls
        while calls and calls[0] <= now - _MINUTE:
            calls.popleft()
        waits = [_wait(calls, self._per_minute, _MINUTE, now), _wait(calls, self._burst, _SECOND, now)]
        wait = max(waits)
        if not wait:
            calls.append(now)
        if self._per_minute is None and not wait:
            return None
        limit, span = (self._per_minute, _MINUTE) if self._per_minute is not None else (self._burst or 0, _SECOND)
        counted = [call for call in calls if call > now - span]
        reset = int(((counted[0] + span) if counted else now).timestamp()) + 1
        return Allowance(limit, max(0, limit - len(counted)), reset, wait)


def _wait(calls: deque[datetime], most: int | None, span: timedelta, now: datetime) -> float:
    """Return the seconds until fewer than `most` calls are in the last `span`."""
    if most is None or len(calls) < most:
        return 0.0
    return max(0.0, (calls[-most] + span - now).total_seconds())
