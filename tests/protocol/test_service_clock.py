"""The service's clock, as its replies tell it: an interval that holds the truth, or nothing."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async import Headers
from tgmembership_async.protocol.service_clock import MAX_OFFSET, Offset, ServiceClock, http_date, offset_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def dated(at: datetime, **more: str) -> Headers:
    return Headers.of({"Date": format_datetime(at, usegmt=True), **more})


@given(
    true=st.timedeltas(-MAX_OFFSET + timedelta(minutes=2), MAX_OFFSET - timedelta(minutes=2)),
    there=st.timedeltas(timedelta(), timedelta(seconds=30)),
    back=st.timedeltas(timedelta(), timedelta(seconds=30)),
)
def test_the_interval_holds_the_truth_and_is_no_wider_than_the_exchange(
    true: timedelta, there: timedelta, back: timedelta
) -> None:
    found = offset_of(dated((NOW + there + true).replace(microsecond=0)), NOW, NOW + there + back)
    assert found is not None
    assert found.least <= true <= found.most
    assert found.most - found.least == there + back + SECOND


@pytest.mark.parametrize(
    ("headers", "received"),
    [
        (Headers(), NOW),
        (Headers.of({"date": "soon"}), NOW),
        (Headers.of({"date": ""}), NOW),
        (dated(NOW, Age="0"), NOW),
        (dated(NOW), NOW - SECOND),
        (dated(NOW + MAX_OFFSET), NOW),
        (dated(NOW - MAX_OFFSET - SECOND), NOW),
        (Headers.of({"date": "Fri, 31 Dec 9999 23:59:59 GMT"}), NOW),
        (Headers.of({"date": "Fri, 31 Dec 9999 23:59:59 -2359"}), NOW),
        (Headers.of({"date": "Mon, 01 Jan 0001 00:00:00 +2359"}), NOW),
        (Headers.of({"date": "Mon, 01 Jan 99999999999 00:00:00 GMT"}), NOW),
    ],
)
def test_a_date_that_is_missing_cached_or_beyond_belief_tells_nothing(headers: Headers, received: datetime) -> None:
    assert offset_of(headers, NOW, received) is None


def test_a_date_without_a_zone_is_utc() -> None:
    assert http_date("Sat, 28 Nov 2026 12:00:00") == NOW
    assert http_date("Sat, 28 Nov 2026 14:00:00 +0200") == NOW


def test_the_last_reply_with_a_date_counts() -> None:
    now = NOW.timestamp()
    clock = ServiceClock(lambda: now)
    assert clock.offset is None
    clock.observe(dated(NOW + timedelta(minutes=3)), now)
    told = Offset(timedelta(minutes=3), timedelta(minutes=3) + SECOND)
    assert clock.offset == told
    clock.observe(Headers(), now)
    assert clock.offset == told
    clock.observe(dated(NOW), now)
    assert clock.offset == Offset(timedelta(), SECOND)
