"""Decide whether and when to retry, from a policy, a budget and Retry-After. Pure functions."""

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

ALL_CALLS: Final = frozenset(Safety)
REPEATABLE_CALLS: Final = frozenset({Safety.SAFE, Safety.IDEMPOTENT})

MAY_RETRY: Final[Mapping[Outcome, frozenset[Safety]]] = {
    Outcome.NOT_SENT: ALL_CALLS,
    Outcome.TURNED_AWAY: ALL_CALLS,
    Outcome.UNKNOWN: REPEATABLE_CALLS,
    Outcome.REFUSED: frozenset(),
    Outcome.DONE: frozenset(),
}
COST_TRANSIENT: Final = 14
COST_THROTTLED: Final = 5
_RETRY_AFTER_JITTER: Final = 0.1

_SECONDS: Final = re.compile(r"\d{1,10}(?:\.\d{1,9})?", re.ASCII)


@frozen(kw_only=True)
class RetryPolicy:
    """The retry policy of a Session.

    `attempts` is the maximum number of attempts per call. Backoff starts at `transient_base` seconds, or
    `throttled_base` after a request was turned away, and doubles up to `backoff_cap`, with full jitter; it does not
    limit Retry-After. `budget` is the retry budget of a Session in tokens: a retry takes 14, or 5 after a request was
    turned away; a call that succeeds returns them. `pause_cap` is the longest pause, in seconds, that one reply may
    impose on other calls and, through a shared gate, on other workers; `.retry_after` still shows the full value.
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
    """A retry budget, shared by all calls of a Session: retries take tokens, successful calls return them."""

    __slots__ = ("capacity", "tokens")

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self.tokens: int = capacity

    def take(self, cost: int) -> None:
        """Take the cost of a retry."""
        self.tokens -= cost

    def refund(self, spent: int) -> None:
        """Return the tokens that a successful call spent, or one token if it spent none."""
        self.tokens = min(self.capacity, self.tokens + (spent or 1))


@frozen
class Wait:
    """Retry after `seconds`; the retry takes `cost` tokens from the budget."""

    seconds: float
    cost: int


class Stop(Enum):
    """Do not retry; the value is the reason."""

    FINAL = "a retry is useless or not safe"
    ATTEMPTS = "all attempts are used"
    BUDGET = "the retry budget is empty"
    DEADLINE = "the wait would exceed the deadline"


def decide(
    policy: RetryPolicy,
    outcome: Outcome,
    safety: Safety,
    *,
    attempt: int,
    retry_after: float | None,
    remaining: float,
    tokens: int,
    random: Callable[[], float],
) -> Wait | Stop:
    """Decide whether to retry after attempt number `attempt` (from 1). `random` returns numbers from 0 to 1."""
    if safety not in MAY_RETRY[outcome]:
        return Stop.FINAL
    if attempt >= policy.attempts:
        return Stop.ATTEMPTS
    throttled = outcome is Outcome.TURNED_AWAY
    cost = COST_THROTTLED if throttled else COST_TRANSIENT
    if tokens < cost:
        return Stop.BUDGET
    if retry_after is not None and (throttled or retry_after < remaining):
        seconds = with_jitter(retry_after, remaining, random())
    else:
        base = policy.throttled_base if throttled else policy.transient_base
        seconds = backoff(base, policy.backoff_cap, attempt, random())
    return Stop.DEADLINE if seconds >= remaining else Wait(seconds, cost)


def with_jitter(retry_after: float, remaining: float, fraction: float) -> float:
    """Return `retry_after` plus jitter: up to 10 % of it, and at most half of the time that remains after it."""
    return retry_after + fraction * min(_RETRY_AFTER_JITTER * retry_after, max(0.0, (remaining - retry_after) / 2))


def backoff(base: float, cap: float, attempt: int, fraction: float) -> float:
    """Return the exponential backoff with full jitter after attempt number `attempt`, in seconds."""
    return min(cap, base * 2.0 ** min(attempt - 1, 64)) * fraction


def parse_retry_after(headers: Headers, now: datetime) -> float | None:
    """Return the seconds of `Retry-After`, a number or a date; None if it is missing or invalid.

    A date is compared with the server's `Date` header if there is one, because the clocks may differ.
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
