"""Whether to try again and when: a policy, a budget, what the service told, and one pure decision."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from math import isfinite
from typing import Final

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.outcome import Outcome
from tgmembership_async.protocol.service_clock import http_date
from tgmembership_async.protocol.wire import Headers, Safety

EVERYBODY: Final = frozenset(Safety)
REPEATABLE: Final = frozenset({Safety.SAFE, Safety.IDEMPOTENT})

MAY_RETRY: Final[Mapping[Outcome, frozenset[Safety]]] = {
    Outcome.NOT_SENT: EVERYBODY,
    Outcome.TURNED_AWAY: EVERYBODY,
    Outcome.UNKNOWN: REPEATABLE,
    Outcome.REFUSED: frozenset(),
    Outcome.DONE: frozenset(),
}
COST_TRANSIENT: Final = 14
COST_THROTTLED: Final = 5
_JITTER_OF_A_TOLD_WAIT: Final = 0.1

_SECONDS: Final = re.compile(r"\d{1,10}(?:\.\d{1,9})?", re.ASCII)


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how fast to try again.

    `attempts` counts requests, the first included. `transient_base` and `throttled_base` are the seconds from which the
    backoff doubles, with full jitter, up to `backoff_cap`; the cap does not bound a wait that the service tells.
    `budget` is a Session's store of tokens: a retry takes 14, or 5 after a request was turned away; success gives them
    back. `pause_cap` is the longest pause, in seconds, that one answer may impose on other calls, on this Session's and
    through a shared gate on other workers'; the call that was told more still reports it as `.retry_after`.
    """

    attempts: int = 4
    transient_base: float = 0.05
    throttled_base: float = 1.0
    backoff_cap: float = 20.0
    budget: int = 500
    pause_cap: float = 3600.0

    def __attrs_post_init__(self) -> None:
        _whole("attempts", self.attempts, least=1)
        _whole("budget", self.budget, least=0)
        for name in ("transient_base", "throttled_base", "backoff_cap", "pause_cap"):
            seconds: object = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
                msg = f"RetryPolicy.{name} must be a number of seconds, 0 or more, not {seconds!r}"
                raise UsageError(msg)


def _whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"RetryPolicy.{name} must be an int of at least {least}, not {value!r}"
        raise UsageError(msg)


class Budget:
    """Tokens for retries, shared by all calls of a Session: spent under a failing service, refilled on success."""

    __slots__ = ("capacity", "tokens")

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self.tokens: int = capacity

    def take(self, cost: int) -> None:
        """Spend what `decide` said a retry costs."""
        self.tokens -= cost

    def refund(self, spent: int) -> None:
        """Give back what a call spent that succeeded, or one token if it spent nothing."""
        self.tokens = min(self.capacity, self.tokens + (spent or 1))


@frozen
class Wait:
    """Try again after `seconds`; the retry costs so many tokens."""

    seconds: float
    cost: int


class Stop(Enum):
    """Do not try again, and why."""

    FINAL = "a repetition is of no use or not safe"
    ATTEMPTS = "all attempts are used"
    BUDGET = "the retry budget is empty"
    DEADLINE = "the wait would outlast the deadline"


def decide(
    policy: RetryPolicy,
    outcome: Outcome,
    safety: Safety,
    *,
    attempt: int,
    told: float | None,
    remaining: float,
    tokens: int,
    random: Callable[[], float],
) -> Wait | Stop:
    """Decide about the attempt after number `attempt` (from 1). `random` gives numbers from 0 up to 1."""
    if safety not in MAY_RETRY[outcome]:
        return Stop.FINAL
    if attempt >= policy.attempts:
        return Stop.ATTEMPTS
    throttled = outcome is Outcome.TURNED_AWAY
    cost = COST_THROTTLED if throttled else COST_TRANSIENT
    if tokens < cost:
        return Stop.BUDGET
    if told is not None and (throttled or told < remaining):
        seconds = obey(told, remaining, random())
    else:
        base = policy.throttled_base if throttled else policy.transient_base
        seconds = backoff(base, policy.backoff_cap, attempt, random())
    return Stop.DEADLINE if seconds >= remaining else Wait(seconds, cost)


def obey(told: float, remaining: float, fraction: float) -> float:
    """Return a told wait in full, plus a fraction of 10 % of it, as far as half of what then remains allows."""
    return told + fraction * min(_JITTER_OF_A_TOLD_WAIT * told, max(0.0, (remaining - told) / 2))


def backoff(base: float, cap: float, attempt: int, fraction: float) -> float:
    """Return the full-jitter backoff in seconds after attempt number `attempt`: a fraction of base, doubled, capped."""
    return min(cap, base * 2.0 ** min(attempt - 1, 64)) * fraction


def told_wait(headers: Headers, now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks for, as a number or a date, or None where there is nothing readable.

    A date is measured against the server's own `Date` where it sends one: the clocks may differ.
    """
    value = (headers.get("retry-after") or "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = http_date(value)
    if until is None:
        return None
    since = http_date(headers.get("date") or "") or now
    seconds = (until - since).total_seconds()
    return max(0.0, seconds) if isfinite(seconds) else None
