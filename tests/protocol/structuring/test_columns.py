"""Reading a long array by columns gives the same values as reading it row by row."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_values import json_rows

from tgmembership_async import Subscriber
from tgmembership_async.protocol.structuring import results

IDS: list[st.SearchStrategy[Any]] = [
    st.integers(0, 2**63),
    st.integers(0, 2**63).map(str),
    st.sampled_from([None, True, "", "x", "-1", "\u0663", "9" * 41, 10**41, Decimal("1.0")]),
]
TIMES: list[st.SearchStrategy[Any]] = [
    st.datetimes().map(datetime.isoformat),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    st.integers(0, 2**40),
    st.datetimes(timezones=st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))).map(
        datetime.isoformat
    ),
    st.sampled_from([None, "0", "02.11.2021", "soon", "2026-01-02T00:00:00+02:00", "20260102.12", "2026-02-31"]),
    st.sampled_from([None, "0001-01-01T00:00:00+02:00", "20260102", "202601021112", "2026-W01-1", ["2026-01-02"]]),
]


@st.composite
def subscribers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw rows whose columns are mostly of one kind each."""
    columns = {
        "user_id": draw(st.sampled_from(IDS)),
        "plan_id": draw(st.sampled_from(IDS)),
        "started_at": draw(st.sampled_from(TIMES)),
        "expires_at": draw(st.sampled_from(TIMES)),
    }
    row = st.fixed_dictionaries(columns, optional={"username": st.text(max_size=3)})
    rows = draw(st.lists(row, max_size=5))
    return [*rows, *draw(st.lists(st.fixed_dictionaries({}, optional=columns), max_size=1))]


@given(subscribers() | json_rows.filter(lambda rows: all(isinstance(row, dict) for row in rows)))
def test_columns_read_as_rows_do(rows: list[dict[str, Any]]) -> None:
    assert results.subscribers(rows) == [results.structure(row, Subscriber) for row in rows]


@pytest.mark.parametrize(
    "surprise",
    [
        {"expires_at": "0"},
        {"expires_at": "0001-01-01T00:00:00+02:00"},
        {"started_at": "20260102"},
        {"started_at": 1_790_000_000},
        {"user_id": None, "plan_id": None, "started_at": None, "expires_at": None},
        {"user_id": 42},
        {"user_id": True},
        {"expires_at": "2026-01-02T02:00:00+02:00"},
        {"user_id": "many"},
        {"expires_at": None},
        {"plan_id": "\u0663"},
        {"nick": "ann"},
        {},
    ],
)
def test_one_surprising_row_disturbs_no_other(surprise: dict[str, Any]) -> None:
    usual = {"user_id": "42", "plan_id": "1", "started_at": "2026-01-02 03:04:05", "expires_at": "2026-02-02T00:00:00Z"}
    expected = Subscriber(42, 1, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC))

    first, second, last = results.subscribers([usual, usual | surprise, usual])

    assert first == last == expected
    assert second == results.structure(usual | surprise, Subscriber)


@pytest.mark.parametrize(
    "columns",
    [
        {"user_id": ["9" * 40, "1"]},
        {"user_id": ["9" * 41, "1"]},
        {"user_id": ["-1", "1"]},
        {"user_id": [10**40, 1]},
        {"user_id": [True, False]},
        {"started_at": ["2026-01-02T03:04:05Z"] * 2},
        {"started_at": ["2026-01-02 03:04:05"] * 2},
        {"started_at": ["2026-01-02T03:04:05.000006+02:00", "2026-01-02"]},
        {"started_at": ["0001-01-01T00:00:00+02:00"] * 2},
        {"started_at": ["02.11.2021", "20260102"]},
        {"started_at": [1, 2]},
        {"started_at": [None, None]},
        {"nick": ["ann", "bob"], "user_id": ["1", "2"], "expires_at": [None, "2026-01-02"]},
    ],
)
def test_columns_of_one_kind_read_as_rows_do(columns: dict[str, list[Any]]) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] * 2

    assert results.subscribers(rows) == [results.structure(row, Subscriber) for row in rows]


def test_what_is_read_by_columns_shares_nothing_with_its_rows() -> None:
    rows: list[dict[str, Any]] = [{"user_id": 1, "nick": "ann"}, {"user_id": 2}, {}]
    subscribers = results.subscribers(rows)
    rows[0]["nick"] = "bob"

    assert [subscriber.extra for subscriber in subscribers] == [{"nick": "ann"}, {}, {}]


def test_a_row_that_is_none_is_named() -> None:
    with pytest.raises(results.ShapeError, match=r"^\$\[2\]: expected an object, got null$"):
        results.subscribers([{}, {"user_id": 1}, None])
