"""`tgmembership subscribers`: each filter keeps what it says, and a date that is missing passes none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tgmembership_async.cli.subscribers import select
from tgmembership_async.values.models import Subscriber

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def subscriber(user_id: int, plan_id: int = 1, began: int | None = -10, ends: int | None = 10) -> Subscriber:
    started_at, expires_at = (None if days is None else NOW + days * DAY for days in (began, ends))
    return Subscriber(user_id, plan_id, started_at, expires_at)


FOUND = [
    subscriber(1),
    subscriber(2, plan_id=2),
    subscriber(3, began=-40, ends=3),
    subscriber(4, ends=-1),
    subscriber(5, began=None, ends=None),
    subscriber(6, ends=7),
]


@pytest.mark.parametrize(
    ("options", "users"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"plan_id": 2}, [2]),
        ({"expiring": 7 * DAY}, [3, 6]),
        ({"expiring": 10_000_000 * DAY}, [1, 2, 3, 6]),
        ({"since": NOW - 10 * DAY}, [1, 2, 4, 6]),
        ({"sort": "expires_at"}, [4, 3, 6, 1, 2, 5]),
        ({"sort": "started_at"}, [3, 1, 2, 4, 6, 5]),
        ({"plan_id": 1, "expiring": 7 * DAY, "sort": "expires_at"}, [3, 6]),
    ],
)
def test_the_filters_keep_what_they_say(options: dict[str, Any], users: list[int]) -> None:
    assert [one.user_id for one in select(FOUND, NOW, **options)] == users
