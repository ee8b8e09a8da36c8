"""All known and assumed shapes of results are accepted, and others raise ShapeError."""

import contextlib
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_values import json_rows, json_values

from tgmembership_async import (
    AccessToken,
    Count,
    Duration,
    Money,
    PaymentMethodUsage,
    Plan,
    PlanPerformance,
    Revenue,
    Secret,
    Subscriber,
    Webhook,
)
from tgmembership_async.protocol.structuring import results
from tgmembership_async.protocol.structuring.results import ShapeError

SAMPLE = {  # documented: the published sample, every value a string
    "plan_id": "1",
    "plan_name": "My first plan",
    "duration": "1 month",
    "cost": "9.99",
    "currency": "EUR",
    "recurring": "0",
}
FIRST_PLAN = Plan(1, "My first plan", Duration("1 month"), Money("9.99", "EUR"), recurring=False)
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_published_sample_is_a_plan() -> None:
    assert results.plans([SAMPLE]) == [FIRST_PLAN]


def test_a_plan_of_numbers_is_the_same_plan() -> None:
    numbers = {"plan_id": 1, "cost": Decimal("9.99"), "recurring": False}

    assert results.plans([SAMPLE | numbers, SAMPLE | {"recurring": 1}]) == [
        FIRST_PLAN,
        attrs.evolve(FIRST_PLAN, recurring=True),
    ]


def test_unknown_fields_of_a_plan_survive() -> None:
    (plan,) = results.plans([SAMPLE | {"trial": {"days": 3}, "extra": 1, "note": None}])

    assert plan.extra == {"trial": {"days": 3}, "extra": 1, "note": None}
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_plan_without_a_currency_has_a_price_without_one() -> None:
    (plan,) = results.plans([SAMPLE | {"currency": None}])

    assert plan.price == Money("9.99", "")


def test_a_duration_is_never_an_error() -> None:
    texts = ["0", "02.11.2021", "lifetime", ""]

    assert [plan.duration.text for plan in results.plans([SAMPLE | {"duration": text} for text in texts])] == texts


@pytest.mark.parametrize("key", [key for key in SAMPLE if key != "currency"])
@pytest.mark.parametrize("value", [None, [], {}, [1]])
def test_a_documented_field_that_does_not_read_is_an_error_that_names_it(key: str, value: object) -> None:
    with pytest.raises(ShapeError, match=rf"^\$\[1\].*{key}"):
        results.plans([SAMPLE, SAMPLE | {key: value}])
    with pytest.raises(ShapeError, match=rf"^\$\[0\]: no {key}"):
        results.plans([{name: SAMPLE[name] for name in SAMPLE if name != key}])


def test_a_currency_that_does_not_read_is_an_error_that_names_it() -> None:
    with pytest.raises(ShapeError, match=r"^\$\[0\]\.currency: expected a string, got an array$"):
        results.plans([SAMPLE | {"currency": []}])


@pytest.mark.parametrize("result", [None, {}, SAMPLE, "x", 1])
def test_plans_are_an_array(result: object) -> None:
    with pytest.raises(ShapeError, match="expected an array"):
        results.plans(result)


def test_subscribers_are_a_list_of_objects_or_one() -> None:
    row = {"user_id": "8047883872", "plan_id": 1, "started_at": "2026-01-02 03:04:05", "expires_at": 1_767_323_045}
    subscriber = Subscriber(8047883872, 1, WHEN, WHEN)

    assert results.subscribers([row, row]) == [subscriber, subscriber]
    assert results.subscribers(row) == [subscriber]


@pytest.mark.parametrize("result", [None, [], {}])
def test_no_subscribers_are_an_empty_list(result: object) -> None:
    assert results.subscribers(result) == []


def test_an_assumed_field_that_does_not_read_is_none_and_stays_in_extra() -> None:
    row = {"user_id": "many", "plan_id": True, "started_at": "soon", "expires_at": "0", "username": "ann"}

    assert results.subscribers(row) == [Subscriber(extra=row)]


def test_null_is_none_and_nothing_to_keep() -> None:
    assert results.subscribers([{"user_id": 1, "expires_at": None}]) == [Subscriber(1)]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (7, Count(7)),
        ("7", Count(7)),
        ({"count": "7"}, Count(7)),
        ({"total": 7}, Count(7)),
        ({"orders": 7}, Count(7)),
        ({"users": 7}, Count(7)),
        ({"users": "9", "total": "7", "active": 3, "new": "4"}, Count(7, {"users": 9, "active": 3, "new": 4})),
        ({"count": None, "total": [], "users": 7}, Count(7, extra={"total": []})),
        (
            {"count": 7, "live": True, "since": "2026", "per": Decimal("1.5")},
            Count(7, {"since": 2026}, {"live": True, "per": Decimal("1.5")}),
        ),
    ],
)
def test_a_count_is_a_number_or_an_object_of_one(result: object, expected: Count) -> None:
    assert results.count(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Decimal("19.98"), Revenue((Money("19.98"),))),
        (20, Revenue((Money(20),))),
        ("19.98", Revenue((Money("19.98"),))),
        ({"revenue": "19.98", "currency": "EUR"}, Revenue((Money("19.98", "EUR"),))),
        ({"total": Decimal("19.98")}, Revenue((Money("19.98"),))),
        ({"amount": 20, "currency": "XTR", "orders": 2}, Revenue((Money(20, "XTR"),), {"orders": 2})),
        ([], Revenue()),
        ({}, Revenue()),
        (
            [{"amount": "1", "currency": "EUR"}, {"total": "2", "currency": "USD", "n": 1}],
            Revenue((Money(1, "EUR"), Money(2, "USD")), {"1": {"n": 1}}),
        ),
        ({"EUR": "19.98", "XTR": 250}, Revenue((Money("19.98", "EUR"), Money(250, "XTR")))),
    ],
)
def test_revenue_is_money_in_any_arrangement(result: object, expected: Revenue) -> None:
    assert results.revenue(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([], []),
        ([{"payment_method": "card", "count": "3"}], [PaymentMethodUsage("card", 3)]),
        ([{"method": "card", "orders": 3}], [PaymentMethodUsage("card", 3)]),
        ([{"name": "card", "total": 3, "share": "0.5"}], [PaymentMethodUsage("card", 3, {"share": "0.5"})]),
        ([{"name": "card", "count": "many"}], [PaymentMethodUsage("card", None, {"count": "many"})]),
        ({"card": 3, "XTR": "2"}, [PaymentMethodUsage("card", 3), PaymentMethodUsage("XTR", 2)]),
    ],
)
def test_payment_methods_are_rows_or_counts_by_name(result: object, expected: list[PaymentMethodUsage]) -> None:
    assert results.payment_methods(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([], []),
        (
            [{"plan_id": "1", "plan_name": "Gold", "orders": "2", "revenue": "19.98", "currency": "EUR"}],
            [PlanPerformance(1, "Gold", 2, Money("19.98", "EUR"))],
        ),
        ([{"sales": 2, "amount": Decimal("1.5")}], [PlanPerformance(orders=2, revenue=Money("1.5"))]),
        ([{"count": 2, "total": 1, "x": 1}], [PlanPerformance(orders=2, revenue=Money(1), extra={"x": 1})]),
        (
            [{"revenue": "much", "currency": "EUR"}],
            [PlanPerformance(extra={"revenue": "much", "currency": "EUR"})],
        ),
        ({"1": {"orders": 2}, "2": {}}, [PlanPerformance(1, orders=2), PlanPerformance(2)]),
        ({"gold": {"orders": 2}}, [PlanPerformance(orders=2, extra={"plan_id": "gold"})]),
    ],
)
def test_performance_is_rows_or_objects_by_plan(result: object, expected: list[PlanPerformance]) -> None:
    assert results.performance(result) == expected


@pytest.mark.parametrize(
    ("result", "token", "link"),
    [
        ("aBc-1", "aBc-1", None),
        ("https://t.me/shop_bot?start=aBc-1", None, "https://t.me/shop_bot?start=aBc-1"),
        ("T.me/shop_bot?start=aBc-1", None, "T.me/shop_bot?start=aBc-1"),
        ({"access_token": "a", "link": "l"}, "a", "l"),
        ({"token": "a", "url": "l"}, "a", "l"),
        ({"code": "a", "access_link": "l"}, "a", "l"),
        ({"access_token": "", "token": "a"}, "a", None),
        ({"link": "l"}, None, "l"),
    ],
)
def test_an_access_token_is_a_code_a_link_or_both(result: object, token: str | None, link: str | None) -> None:
    assert results.access_token(result) == AccessToken(token, link, result, results.access_token(result).extra)
    assert results.structure(result, AccessToken) == results.access_token(result)


def test_unknown_fields_of_an_access_token_survive() -> None:
    assert results.access_token({"token": "a", "uses": 1}).extra == {"uses": 1}


def _nested(depth: int) -> list[Any]:
    nest: list[Any] = []
    for _ in range(depth):
        nest = [nest]
    return nest


@pytest.mark.parametrize(
    "result",
    [None, True, 0, 10**5000, Decimal("NaN"), "", " ", "\ud800", [], {}, {"token": 5, "link": []}, {5: 6}, object()],
    ids=lambda value: type(value).__name__,
)
def test_a_grant_is_a_grant_whatever_its_result_looks_like(result: object) -> None:
    token = results.access_token(result)

    assert token.raw is result
    assert token.link is None
    assert token.token in (None, "\ud800")
    assert "***" in repr(token) or result is None


def test_a_grant_may_be_nested_beyond_all_recursion() -> None:
    nest = _nested(100_000)

    assert results.access_token(nest).raw is nest
    assert results.access_token({"token": nest, "x": nest}).token is None


@pytest.mark.parametrize(
    ("result", "secret", "extra"),
    [
        ("hush", Secret("hush"), {}),
        ({"secret": "hush", "x": 1}, Secret("hush"), {"x": 1}),
        ({"webhook_secret": "hush"}, Secret("hush"), {}),
        ({"secret": 5}, None, {"secret": 5}),
        ("", None, {}),
        (None, None, {}),
        (True, None, {}),
        ([1], None, {}),
    ],
)
def test_setting_a_webhook_may_tell_its_secret(result: object, secret: Secret | None, extra: object) -> None:
    webhook = results.webhook(result, "https://example.com/")

    assert (webhook.url, webhook.secret, webhook.extra) == ("https://example.com/", secret, extra)


READS = [
    results.plans,
    results.subscribers,
    results.count,
    results.revenue,
    results.payment_methods,
    results.performance,
]
TYPES: list[Any] = [
    *(
        list[Plan],
        Plan,
        list[Subscriber],
        Subscriber,
        Count,
        Revenue,
        PaymentMethodUsage,
        PlanPerformance,
        Money,
        Secret,
    ),
    *(int, str, bool, float, Decimal, datetime, Duration, bytes, dict, list, dict[str, int], list[str], int | None),
]


@given(json_values | json_rows)
def test_a_read_gives_its_value_or_a_shape_error(result: object) -> None:
    for read in READS:
        with contextlib.suppress(ShapeError):
            read(result)


@given(json_values | json_rows)
def test_any_type_gives_its_value_or_a_shape_error(result: object) -> None:
    for into in TYPES:
        with contextlib.suppress(ShapeError):
            results.structure(result, into)


@given(json_values)
def test_what_has_taken_effect_never_raises(result: object) -> None:
    assert results.access_token(result).raw is result
    assert isinstance(results.webhook(result, "https://example.com/"), Webhook)


NO_SHAPES: list[object] = ["x", True, ["x"], [[]], [None], 10**50]


NO_COUNT: list[object] = [None, [], {}, {"count": True}, {"active": 1}, Decimal("1.5")]
NO_USAGE: list[object] = [None, {"card": True}, [{"count": 1}], [{"name": []}]]
NO_REVENUE: list[object] = [None, {"currency": "EUR"}, {"amount": "x"}, {"EUR": None}, [5]]
NO_PERFORMANCE: list[object] = [None, {"1": 5}, {"1": None}]


@pytest.mark.parametrize(
    ("read", "result"),
    [
        *((read, result) for read in READS for result in NO_SHAPES),
        *((results.count, result) for result in NO_COUNT),
        *((results.revenue, result) for result in NO_REVENUE),
        *((results.payment_methods, result) for result in NO_USAGE),
        *((results.performance, result) for result in NO_PERFORMANCE),
    ],
)
def test_what_has_no_accepted_shape_is_an_error(read: Callable[[Any], object], result: object) -> None:
    with pytest.raises(ShapeError) as caught:
        read(result)

    assert str(caught.value).startswith("$")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
def test_a_nest_beyond_all_recursion_is_an_error(read: Callable[[Any], object]) -> None:
    with pytest.raises(ShapeError):
        read(_nested(20_000))


def test_a_shape_error_is_short_and_holds_neither_values_nor_frames_that_do() -> None:
    with pytest.raises(ShapeError) as caught:
        results.structure([{"k" * 500: {"deep": "hush" * 100}}], list[dict[str, dict[str, int]]])

    assert "hush" not in str(caught.value)
    assert len(str(caught.value)) <= 201
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.lists(st.just(SAMPLE), max_size=3))
def test_structuring_changes_nothing_in_what_it_was_given(rows: list[dict[str, str]]) -> None:
    before = [dict(row) for row in rows]
    results.plans(rows)

    assert rows == before
