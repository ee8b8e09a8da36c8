"""Scalar readers are lenient and exact, and no number takes long to read."""

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async import Duration, Secret
from tgmembership_async.protocol.structuring import scalars
from tgmembership_async.protocol.structuring.scalars import Mismatch

BLOW_UPS = ["9" * 1_000_000, "1E+999999999", "1e99999", Decimal("1E+999999999"), Decimal("1E-999999999"), 10**5000]
NO_NUMBERS: list[object] = [
    "",
    " ",
    " 1",
    "1 ",
    "1_0",
    "\u0663",
    "0x10",
    "NaN",
    "Infinity",
    "-",
    "1,5",
    "1\n",
    None,
    True,
    False,
    [],
    {},
]
NOT_FINITE: list[object] = [float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")]


def brief(value: object) -> str:
    """Return a short test id: some values are too long."""
    return type(value).__name__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (-5, -5),
        ("5", 5),
        ("-5", -5),
        ("+5", 5),
        ("007", 7),
        (Decimal("5.0"), 5),
        (Decimal("5E+3"), 5000),
        (5.0, 5),
    ],
)
def test_an_integer_is_a_number_or_a_string_of_digits(value: object, expected: int) -> None:
    assert scalars.integer(value) == expected
    assert type(scalars.integer(value)) is int


@pytest.mark.parametrize(
    "value", [*BLOW_UPS, *NO_NUMBERS, *NOT_FINITE, "1.0", "1e3", Decimal("1.5"), 1.5, -(10**40)], ids=brief
)
def test_nothing_else_is_an_integer(value: object) -> None:
    started = time.perf_counter()
    with pytest.raises(Mismatch, match=r"^\$: expected a (whole|decimal) number"):
        scalars.integer(value)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("9.99", "9.99"),
        ("9.90", "9.90"),
        (9, "9"),
        (Decimal("1.50"), "1.50"),
        (9.99, "9.99"),
        ("1e2", "1E+2"),
        (".5", "0.5"),
        ("5.", "5"),
        ("-0.000000000000000001", "-1E-18"),
        (
            "1234567890123456789012345678901234567890.12345678901234567890",
            "1234567890123456789012345678901234567890.12345678901234567890",
        ),
    ],
)
def test_a_decimal_keeps_its_last_digit(value: object, expected: str) -> None:
    with localcontext(prec=3):
        assert str(scalars.decimal(value)) == expected


@pytest.mark.parametrize("value", [*BLOW_UPS, *NO_NUMBERS, *NOT_FINITE], ids=brief)
def test_nothing_else_is_a_decimal(value: object) -> None:
    with pytest.raises(Mismatch):
        scalars.decimal(value)


@pytest.mark.parametrize("value", [True, 1, "1", "true", "True"])
def test_true_has_five_spellings(value: object) -> None:
    assert scalars.boolean(value) is True


@pytest.mark.parametrize("value", [False, 0, "0", "false", "FALSE"])
def test_false_has_five_spellings(value: object) -> None:
    assert scalars.boolean(value) is False


@pytest.mark.parametrize("value", [None, 2, -1, "", "yes", "01", Decimal(1), [], {}, 10**50])
def test_nothing_else_is_a_boolean(value: object) -> None:
    with pytest.raises(Mismatch):
        scalars.boolean(value)


@pytest.mark.parametrize(("value", "expected"), [("", ""), ("\ud800", "\ud800"), (5, "5"), (Decimal("1.50"), "1.50")])
def test_text_is_a_string_or_the_number_it_may_have_been(value: object, expected: str) -> None:
    assert scalars.text(value) == expected


@pytest.mark.parametrize("value", [None, True, [], {}, *NOT_FINITE, 10**5000], ids=brief)
def test_nothing_else_is_text(value: object) -> None:
    with pytest.raises(Mismatch):
        scalars.text(value)


def test_a_secret_is_a_string_with_something_in_it() -> None:
    assert scalars.secret("hush") == Secret("hush")
    for value in ("", " ", 5, None):
        with pytest.raises(Mismatch):
            scalars.secret(value)


def test_every_text_is_a_duration_and_so_is_the_number_zero() -> None:
    assert scalars.duration("for ever") == Duration("for ever")
    assert scalars.duration(0) == Duration("0")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.678+02:00", datetime(2026, 1, 2, 1, 4, 5, 678_000, tzinfo=UTC)),
        ("20260102T030405", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("02.11.2021", datetime(2021, 11, 2, tzinfo=UTC)),
        (1_767_323_045, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("1767323045", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (Decimal("1767323045.678901"), datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_aware_utc(value: object, expected: datetime) -> None:
    with localcontext(prec=3):
        timestamp = scalars.timestamp(value)

    assert timestamp == expected
    assert timestamp.tzinfo is UTC
    assert scalars.day(value) == expected.date()


@pytest.mark.parametrize(
    "value",
    [
        *BLOW_UPS,
        *NO_NUMBERS,
        *NOT_FINITE,
        0,
        "0",
        -1,
        1_767_323_045_000,
        "soon",
        "2026-13-01",
        "31.02.2021",
        "0000-00-00 00:00:00",
        "0001-01-01T00:00:00+14:00",
    ],
    ids=brief,
)
def test_nothing_else_is_a_timestamp(value: object) -> None:
    with pytest.raises(Mismatch, match="date or time"):
        scalars.timestamp(value)


@given(st.datetimes(min_value=datetime(2, 1, 1), timezones=st.just(timezone(timedelta(hours=5)))))  # noqa: DTZ001 - Hypothesis wants it naive
def test_iso_8601_is_read_to_the_microsecond(when: datetime) -> None:
    assert scalars.timestamp(when.isoformat()) == when


@given(st.dates())
def test_day_month_year_is_read(day: date) -> None:
    assert scalars.day(f"{day.day:02}.{day.month:02}.{day.year:04}") == day


def test_json_has_no_bytes() -> None:
    with pytest.raises(Mismatch):
        scalars.no_bytes(10**9)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "a boolean"),
        ("hush", "a string"),
        ([1], "an array"),
        ({}, "an object"),
        (object(), "something else"),
    ],
)
def test_a_mismatch_names_types_and_never_values(value: object, kind: str) -> None:
    with pytest.raises(Mismatch) as caught:
        scalars.integer(value)

    assert caught.value.reason == f"expected a whole number, got {kind}"


@pytest.mark.parametrize(
    "read", [scalars.integer, scalars.decimal, scalars.boolean, scalars.text, scalars.timestamp, scalars.secret]
)
@given(
    value=st.one_of(st.text(), st.integers(), st.decimals(), st.floats(), st.none(), st.booleans(), st.lists(st.none()))
)
def test_a_scalar_reads_or_raises_mismatch(read: Callable[[Any], Any], value: object) -> None:
    with contextlib.suppress(Mismatch):
        read(value)
