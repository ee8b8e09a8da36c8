"""The retry decision, the retry budget, and the parser of Retry-After."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.outcome import Outcome
from tgmembership_async.protocol.retry import (
    COST_THROTTLED,
    COST_TRANSIENT,
    MAY_RETRY,
    Budget,
    RetryPolicy,
    Stop,
    Wait,
    backoff,
    decide,
    parse_retry_after,
)
from tgmembership_async.protocol.wire import Headers, Safety

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def decided(outcome: Outcome, safety: Safety = Safety.SAFE, **changes: Any) -> Wait | Stop:
    given = {"attempt": 1, "retry_after": None, "remaining": 60.0, "tokens": 500, "random": lambda: 1.0}
    return decide(RetryPolicy(), outcome, safety, **{**given, **changes})


@pytest.mark.parametrize("safety", Safety)
@pytest.mark.parametrize("outcome", Outcome)
def test_what_may_be_retried_is_the_table(outcome: Outcome, safety: Safety) -> None:
    again = outcome in {Outcome.NOT_SENT, Outcome.TURNED_AWAY} or (
        outcome is Outcome.UNKNOWN and safety is not Safety.UNSAFE
    )
    assert (safety in MAY_RETRY[outcome]) is again
    assert (decided(outcome, safety) is not Stop.FINAL) is again


def test_attempts_include_the_first() -> None:
    assert isinstance(decided(Outcome.NOT_SENT, attempt=3), Wait)
    assert decided(Outcome.NOT_SENT, attempt=4) is Stop.ATTEMPTS


def test_the_two_kinds_of_retry_have_their_own_base_and_price() -> None:
    assert decided(Outcome.UNKNOWN) == Wait(0.05, COST_TRANSIENT)
    assert decided(Outcome.TURNED_AWAY) == Wait(1.0, COST_THROTTLED)
    assert decided(Outcome.TURNED_AWAY, attempt=3) == Wait(4.0, COST_THROTTLED)


@pytest.mark.parametrize(("outcome", "cost"), [(Outcome.UNKNOWN, 14), (Outcome.TURNED_AWAY, 5)])
def test_an_empty_budget_stops_retries(outcome: Outcome, cost: int) -> None:
    assert decided(outcome, tokens=cost - 1) is Stop.BUDGET
    assert isinstance(decided(outcome, tokens=cost), Wait)


def test_a_wait_beyond_the_deadline_stops_at_once() -> None:
    assert decided(Outcome.TURNED_AWAY, retry_after=60.0) is Stop.DEADLINE
    assert decided(Outcome.TURNED_AWAY, retry_after=3600.0) is Stop.DEADLINE
    assert decided(Outcome.UNKNOWN, remaining=0.05) is Stop.DEADLINE


def test_a_retry_after_of_zero_is_no_wait() -> None:
    assert decided(Outcome.TURNED_AWAY, retry_after=0.0) == Wait(0.0, COST_THROTTLED)


@given(
    retry_after=st.floats(0, 1e6),
    remaining=st.floats(0, 1e6),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_retry_after_is_never_shortened_nor_extended_past_the_deadline(
    retry_after: float, remaining: float, fraction: float
) -> None:
    step = decided(Outcome.TURNED_AWAY, retry_after=retry_after, remaining=remaining, random=lambda: fraction)
    if retry_after >= remaining:
        assert step is Stop.DEADLINE
    elif isinstance(step, Wait):
        assert retry_after <= step.seconds <= retry_after * 1.1
        assert step.seconds < remaining
    else:
        assert step is Stop.DEADLINE
        assert remaining - retry_after < 1e-9 * remaining, "only rounding may close the gap"


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_full_jitter_under_a_cap(base: float, cap: float, attempt: int, fraction: float) -> None:
    assert 0 <= backoff(base, cap, attempt, fraction) <= cap


def test_a_budget_empties_and_refills() -> None:
    budget = Budget(28)
    budget.take(14)
    budget.take(14)
    assert budget.tokens == 0
    budget.refund(0)
    assert budget.tokens == 1
    budget.refund(14)
    budget.refund(14)
    assert budget.tokens == 28


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 3 ", 3.0),
        ("1.5", 1.5),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 12:00:30", 30.0),
        ("Thu, 01 Jan 2026 14:00:30 +0200", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 5000, None),
        ("Thu, 99 Jan 2026 99:00:30 GMT", None),
        ("Thu, 01 Jan 99999999999 12:00:30 GMT", None),
        ("1, 2", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, expected: float | None) -> None:
    assert parse_retry_after(Headers((("Retry-After", value),)), NOW) == expected


def test_a_date_is_measured_on_the_servers_own_clock() -> None:
    headers = Headers(
        (("date", "Thu, 01 Jan 2026 10:00:00 GMT"), ("retry-after", "Thu, 01 Jan 2026 10:00:20 GMT")),
    )
    assert parse_retry_after(headers, NOW) == 20.0


def test_no_retry_after_is_none() -> None:
    assert parse_retry_after(Headers(), NOW) is None


@given(st.text(max_size=60))
def test_no_header_value_breaks_the_reading(value: str) -> None:
    wait = parse_retry_after(Headers((("retry-after", value), ("date", value))), NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 1.5},
        {"budget": -1},
        {"transient_base": -0.1},
        {"throttled_base": float("nan")},
        {"backoff_cap": float("inf")},
        {"backoff_cap": "20"},
        {"transient_base": False},
    ],
)
def test_a_policy_is_checked_when_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RetryPolicy(**wrong)
