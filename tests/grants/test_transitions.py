"""The steps of a grant as pure functions."""

from datetime import UTC, datetime

from tgmembership_async.grants import GrantRequest, transitions

NOW = datetime(2026, 10, 1, tzinfo=UTC)


def test_a_new_row_that_is_sent_at_once_is_a_planned_row_that_was_claimed() -> None:
    request = GrantRequest("a", 1, 42, "note")
    assert transitions.begun(request, NOW) == transitions.claimed(transitions.planned(request, NOW), NOW)
