"""The gate: rate limit and pauses, with the time passed in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol import gate as module
from tgmembership_async.protocol.gate import Gate, RateLimit


def test_a_gate_without_a_limit_lets_all_through() -> None:
    gate = Gate()
    assert not gate.limited
    assert gate.rate_wait(0.0) <= 0
    assert gate.paused_until < 0


@given(
    calls=st.integers(1, 20),
    per_seconds=st.floats(0.1, 60),
    pauses=st.lists(st.floats(0, 10), min_size=1, max_size=60),
)
def test_no_window_holds_more_than_a_burst_and_the_rate(calls: int, per_seconds: float, pauses: list[float]) -> None:
    gate = Gate(RateLimit(calls, per_seconds))
    assert gate.limited
    now, left = 0.0, []
    for pause in pauses:
        now += pause
        now += max(0.0, gate.rate_wait(now))
        gate.take(now)
        left.append(now)
    interval = per_seconds / calls
    for i, first in enumerate(left):
        for j in range(i, len(left)):
            assert j - i + 1 <= calls + (left[j] - first) / interval + 1e-6


def test_a_rested_gate_lets_a_burst_through() -> None:
    gate = Gate(RateLimit(3, 3.0))
    for _ in range(3):
        assert gate.rate_wait(100.0) <= 0
        gate.take(100.0)
    assert gate.rate_wait(100.0) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_pause_is_only_ever_made_longer(untils: list[float]) -> None:
    gate = Gate()
    for until in untils:
        before = gate.paused_until
        gate.pause(until)
        assert gate.paused_until >= before
    assert gate.paused_until == max(untils)


@pytest.mark.parametrize(
    "wrong", [(0, 1), (-1, 1), (True, 1), (1.5, 1), (1, 0), (1, -1), (1, float("nan")), (1, "1"), (1, True)]
)
def test_a_rate_limit_is_checked_when_built(wrong: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match="RateLimit"):
        RateLimit(*wrong)


def test_the_former_name_of_a_gates_reply_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="GateReply"):
        assert module.Told is module.GateReply  # type: ignore[attr-defined]  # type checkers see the new name only
    with pytest.raises(AttributeError, match="Tolb"):
        module.Tolb  # type: ignore[attr-defined]  # noqa: B018 - the access is what is tested
