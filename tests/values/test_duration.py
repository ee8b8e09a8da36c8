"""A Duration keeps the service's text, and parses it where its meaning is known."""

import pickle
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async import Duration

START = datetime(2024, 1, 31, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("1 month", datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
        ("13 months", datetime(2025, 2, 28, 12, 30, tzinfo=UTC)),
        ("11 months", datetime(2024, 12, 31, 12, 30, tzinfo=UTC)),
        ("3 days", datetime(2024, 2, 3, 12, 30, tzinfo=UTC)),
        ("1 day", datetime(2024, 2, 1, 12, 30, tzinfo=UTC)),
        ("2 weeks", datetime(2024, 2, 14, 12, 30, tzinfo=UTC)),
        ("1 year", datetime(2025, 1, 31, 12, 30, tzinfo=UTC)),
        (" 1  Year ", datetime(2025, 1, 31, 12, 30, tzinfo=UTC)),
        ("0", START),
        ("02.11.2021", datetime(2021, 11, 2, tzinfo=UTC)),
    ],
)
def test_it_ends_by_the_calendar(text: str, end: datetime) -> None:
    assert Duration(text).add_to(START) == end
    assert Duration(text).text == text


@pytest.mark.parametrize(
    "text", ["", "lifetime", "1", "month", "-1 month", "1.5 months", "\u0663 days", "1 months 3 days", "31.02.2021"]
)
def test_unknown_text_is_kept_and_has_no_end(text: str) -> None:
    duration = Duration(text)

    assert str(duration) == text
    assert (duration.span, duration.end_date, duration.add_to(START)) == (None, None, None)


def test_it_has_a_span_or_an_end_date() -> None:
    assert Duration("2 years").span == (24, 0)
    assert Duration("3 days").span == (0, 3)
    assert Duration("0").span == (0, 0)
    assert Duration("02.11.2021").end_date == date(2021, 11, 2)
    assert Duration("02.11.2021").span is None


def test_a_leap_day_and_a_year_is_the_end_of_february() -> None:
    assert Duration("1 year").add_to(datetime(2024, 2, 29, tzinfo=UTC)) == datetime(2025, 2, 28, tzinfo=UTC)


def test_it_ends_in_the_zone_in_which_it_began() -> None:
    berlin = ZoneInfo("Europe/Berlin")

    assert Duration("1 month").add_to(datetime(2024, 3, 15, 9, tzinfo=berlin)) == datetime(
        2024, 4, 15, 9, tzinfo=berlin
    )
    assert Duration("02.11.2021").add_to(datetime(2021, 1, 1, tzinfo=berlin)) == datetime(2021, 11, 2, tzinfo=berlin)


@pytest.mark.parametrize("text", ["8000 years", "999999 months", "999999 weeks"])
def test_an_end_beyond_the_calendar_overflows(text: str) -> None:
    with pytest.raises(OverflowError):
        Duration(text).add_to(datetime(9000, 1, 1, tzinfo=UTC))


@given(st.text())
def test_every_text_is_a_duration(text: str) -> None:
    duration = Duration(text)

    assert duration.add_to(START) is None or duration.span is not None or duration.end_date is not None


@given(st.integers(0, 1000), st.datetimes(max_value=datetime(9000, 1, 1)))  # noqa: DTZ001 - Hypothesis wants it naive
def test_months_land_in_the_month_they_name(months: int, start: datetime) -> None:
    end = Duration(f"{months} months").add_to(start)

    assert end is not None
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == months
    assert end.day <= start.day
    assert end.time() == start.time()


def test_it_compares_and_pickles_by_its_text() -> None:
    duration = Duration("1 month")
    assert duration.span == (1, 0)

    assert pickle.loads(pickle.dumps(duration)) == duration
    assert hash(Duration("1 month")) == hash(duration)
