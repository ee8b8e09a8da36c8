"""Money is exact."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async import Money


def test_it_prints_as_people_write_it() -> None:
    assert str(Money(Decimal("9.90"), "EUR")) == "9.90 EUR"
    assert str(Money(Decimal("1E+2"))) == "100"


@pytest.mark.parametrize("amount", ["9.99", 10, Decimal("9.99")])
def test_it_takes_whatever_is_exact(amount: str | int | Decimal) -> None:
    assert Money(amount, "EUR").amount == Decimal(amount)


@pytest.mark.parametrize("amount", [9.99, True])
def test_it_takes_no_float_and_no_bool(amount: object) -> None:
    with pytest.raises(TypeError, match="must be a Decimal"):
        Money(amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("amount", ["NaN", "Infinity", Decimal("-Infinity")])
def test_it_is_finite(amount: str | Decimal) -> None:
    with pytest.raises(ValueError, match="finite"):
        Money(amount)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_it_keeps_every_digit(amount: Decimal) -> None:
    assert Money(amount).amount.as_tuple() == amount.as_tuple()


def test_equal_amounts_are_equal_in_any_notation() -> None:
    assert Money("9.90", "EUR") == Money("9.9", "EUR")
    assert hash(Money("9.90", "EUR")) == hash(Money("9.9", "EUR"))
    assert Money("9.90", "EUR") != Money("9.90", "USD")
