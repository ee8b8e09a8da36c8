"""Figures of days are grouped into days, weeks, months and years."""

from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.cli.report.buckets import UNITS, Unit, beginning, bucketed, following, label, unit_of

DAYS = st.dates()
RECENT = st.dates(date(2020, 1, 1), date(2029, 12, 31))
COUNTS = st.dictionaries(st.tuples(RECENT, st.sampled_from("ab")), st.integers(1, 9), min_size=1)
units = pytest.mark.parametrize("unit", UNITS)


@pytest.mark.parametrize(
    ("days", "unit"),
    [(0, "day"), (44, "day"), (45, "week"), (419, "week"), (420, "month"), (3 * 366, "month"), (20 * 366, "year")],
)
def test_the_unit_follows_the_time_that_the_figures_span(days: int, unit: Unit) -> None:
    first = date(2026, 1, 1)
    assert unit_of(first, first + timedelta(days=days)) == unit


@pytest.mark.parametrize(
    ("unit", "begin", "name"),
    [
        ("day", "2026-11-20", "2026-11-20"),
        ("week", "2026-11-16", "2026-11-16"),
        ("month", "2026-11-01", "2026-11"),
        ("year", "2026-01-01", "2026"),
    ],
)
def test_a_day_belongs_to_a_named_bucket(unit: Unit, begin: str, name: str) -> None:
    found = beginning(date(2026, 11, 20), unit)
    assert (found.isoformat(), label(found, unit)) == (begin, name)


@units
@given(day=DAYS)
def test_every_day_there_can_be_is_in_one_bucket(unit: Unit, day: date) -> None:
    begin = beginning(day, unit)
    after = following(begin, unit)
    assert begin <= day
    assert after is None or day < after
    assert beginning(begin, unit) == begin
    assert after is None or beginning(after, unit) == after


@units
@given(first=RECENT, second=RECENT)
def test_names_are_in_the_order_of_the_buckets(unit: Unit, first: date, second: date) -> None:
    one, other = beginning(first, unit), beginning(second, unit)
    assert (one < other) == (label(one, unit) < label(other, unit))


@units
@given(counts=COUNTS)
def test_nothing_is_lost_and_no_bucket_is_left_out(unit: Unit, counts: dict[tuple[date, str], int]) -> None:
    found = bucketed(counts, unit)
    totals, sums = Counter[str](), Counter[str]()
    for (_, key), count in counts.items():
        totals[key] += count
    for bucket in found.values():
        sums.update(bucket)
    assert sums == totals
    begins = list(found)
    assert [following(begin, unit) for begin in begins[:-1]] == begins[1:]
    assert found[begins[0]]
    assert found[begins[-1]]


def test_a_date_far_away_does_not_fill_the_page_with_empty_days() -> None:
    found = bucketed({(date(1970, 1, 1), "a"): 1, (date(9999, 12, 31), "a"): 2}, "day")
    assert found == {date(1970, 1, 1): {"a": 1}, date(9999, 12, 31): {"a": 2}}


@units
def test_without_figures_there_are_no_buckets(unit: Unit) -> None:
    assert bucketed({}, unit) == {}
