"""`call(..., into=...)` accepts any annotated type, is strict with containers, and reports the path of a mismatch."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any, Generic, Literal, NewType, Optional, TypedDict, TypeVar

import attrs
import pytest

from tgmembership_async import AccessToken, Count, Money, Plan, Secret, Subscriber
from tgmembership_async.protocol.structuring.results import ShapeError, structure

T = TypeVar("T")
OrderId = NewType("OrderId", int)


class Level(IntEnum):
    GOLD = 1


class State(StrEnum):
    PAID = "paid"


@attrs.frozen
class Order:
    order_id: int
    total: Decimal
    note: str | None = None
    parts: "list[Order]" = attrs.field(factory=list)


@attrs.frozen
class Page(Generic[T]):
    items: list[T]


@attrs.frozen
class Picky:
    price: int = attrs.field()

    @price.validator
    def _never(self, _: object, value: int) -> None:
        msg = f"hush {value}"
        raise RuntimeError(msg)


@dataclass
class Box:
    label: str = "none"
    sizes: dict[str, int] = field(default_factory=dict)


class Row(TypedDict):
    user: int


@pytest.mark.parametrize(
    ("result", "into", "expected"),
    [
        ({"a": [1, None]}, Any, {"a": [1, None]}),
        ({"a": 1}, dict, {"a": 1}),
        ({"1": "2"}, dict[int, int], {1: 2}),
        ({"a": "2"}, Mapping[str, int], {"a": 2}),
        ([1], list, [1]),
        (["1"], list[int], [1]),
        (["1"], Sequence[int], [1]),
        (["1"], Iterable[int], [1]),
        (["1"], tuple[int, ...], (1,)),
        (["1", "1"], set[int], {1}),
        (["1"], frozenset[int], frozenset({1})),
        (["1"], AbstractSet[int], frozenset({1})),
        (["1", "x"], tuple[int, str], (1, "x")),
        ({"a": {"b": [0, {"c": True}]}}, dict[str, dict[str, list[Any] | None]], {"a": {"b": [0, {"c": True}]}}),
        (None, int | None, None),
        ("5", Optional[int], 5),  # noqa: UP045 - as callers write it
        ("x", int | str, "x"),
        (5, int | str | None, 5),
        ("5", float, 5.0),
        ("2026-01-02", date, date(2026, 1, 2)),
        ("2026-01-02", datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        ("hush", Secret, Secret("hush")),
        ("1", Level, Level.GOLD),
        ("paid", State, State.PAID),
        ("a", Literal["a", "b"], "a"),
        ("5", OrderId, 5),
        ({"user": "5"}, Row, {"user": 5}),
        ({"order_id": "5", "total": "9.90", "more": 1}, Order, Order(5, Decimal("9.90"))),
        (
            {"order_id": 5, "total": 1, "note": "x", "parts": [{"order_id": 6, "total": 1}]},
            Order,
            Order(5, Decimal(1), "x", [Order(6, Decimal(1))]),
        ),
        ({"items": ["1"]}, Page[int], Page([1])),
        ({"label": 5, "sizes": {"s": "1"}}, Box, Box("5", {"s": 1})),
        ("9.99", Money, Money("9.99")),
        ({"amount": "9.99", "currency": "EUR"}, Money, Money("9.99", "EUR")),
        ({"x": {"user_id": "5"}}, dict[str, Subscriber], {"x": Subscriber(5)}),
        ("7", Count, Count(7)),
        ("t", AccessToken, AccessToken("t", raw="t")),
    ],
)
def test_json_becomes_what_is_asked_for(result: object, into: Any, expected: object) -> None:
    structured = structure(result, into)

    assert structured == expected
    assert type(structured) is type(expected)


@pytest.mark.parametrize(
    ("result", "into", "message"),
    [
        ("abc", list[str], r"\$: expected an array, got a string"),
        ({"a": 1}, list[str], r"\$: expected an array, got an object"),
        ([["a", 1]], dict, r"\$: expected an object, got an array"),
        ("abc", set[str], r"\$: expected an array, got a string"),
        (5, bytes, r"\$: expected bytes, which JSON does not have, got a number"),
        (None, int, r"\$: expected a whole number, got null"),
        ([], Box, r"\$: expected an object, got an array"),
        ("5", Order, r"\$: expected an object, got a string"),
        ({"total": 1}, Order, r"\$\.order_id: not there"),
        ({"order_id": 1, "total": "x"}, Order, r"\$\.total: expected a decimal number, got a string"),
        (
            {"order_id": 5, "total": 1, "parts": [{"order_id": 6, "total": 1}, {"order_id": [], "total": 1}]},
            Order,
            r"\$\.parts\[1\]\.order_id: expected a whole number, got an array",
        ),
        ({"items": [1, "x"]}, Page[int], r"\$\.items\[1\]: expected a whole number, got a string"),
        ({"sizes": {"x y": "z"}}, Box, r"\$\.sizes\['x y'\]: expected a whole number, got a string"),
        ({"x": 1}, dict[int, int], r"\$\.x: expected a whole number, got a string"),
        (
            {"a": [{"plan_id": "x"}]},
            dict[str, list[Plan]],
            r"\$\.a\[0\]\.plan_id: expected a whole number, got a string",
        ),
        ({"price": 5}, Picky, r"\$: RuntimeError"),
        ("silver", Level, r"\$: expected a whole number, got a string"),
        ("sent", State, r"\$: ValueError"),
        ("c", Literal["a", "b"], r"\$: .+"),
        ([1, 2], int | str, r"\$: \w+"),
        ("x", object(), r"\$: \w+"),
        ("x", int | list[str], r"\$: expected an array, got a string"),
        ({}, dict[str, int] | dict[int, str], r"\$: \w+"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path_and_never_shown(result: object, into: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{message}$") as caught:
        structure(result, into)

    assert "hush" not in str(caught.value)


def test_a_long_key_is_cut_in_the_path() -> None:
    with pytest.raises(ShapeError) as caught:
        structure({"secret " * 100: "x"}, dict[str, int])

    assert len(str(caught.value)) < 100


def test_a_class_that_fails_once_only_is_still_a_shape_error() -> None:
    made: list[int] = []

    @attrs.frozen
    class Moody:
        price: int

        def __attrs_post_init__(self) -> None:
            made.append(self.price)
            if len(made) == 1:
                raise RuntimeError

    with pytest.raises(ShapeError, match="once"):
        structure({"price": 1}, Moody)


def test_what_nests_beyond_all_recursion_is_a_shape_error() -> None:
    nest: dict[str, Any] = {"order_id": 1, "total": 1}
    for _ in range(10_000):
        nest = {"order_id": 1, "total": 1, "parts": [nest]}

    with pytest.raises(ShapeError):
        structure(nest, Order)


def test_a_recursion_error_is_called_what_it_is() -> None:
    @attrs.frozen
    class Endless:
        price: int

        def __attrs_post_init__(self) -> None:
            raise RecursionError

    with pytest.raises(ShapeError, match=r"^\$\[0\]: nested too deeply$"):
        structure([{"price": 1}], list[Endless])


def test_explaining_a_failure_ends_at_the_first() -> None:
    reads: list[object] = []

    def note(value: Any) -> int:
        reads.append(value)
        return int(value)

    @attrs.frozen
    class Fussy:
        price: int = attrs.field(converter=note)

    with pytest.raises(ShapeError):
        structure([{"price": 1}, *[{"price": "x"}] * 10_000], list[Fussy])

    assert len(reads) < 10
