"""The table of reply shapes that the client accepts. All are *assumed* except that of the published sample.

`FakeService(shapes={"addMember": "link"})` selects one by name; the first shape of a method is its default. Numbers are
strings by default, as in the published sample.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.renamed import former_names
from tgmembership_async.testing.fake.values import FakePlan, FakeSubscriber, FakeToken, PlanSales

Shape = Callable[[Any], Any]


@frozen
class Counts:
    """A total, and the counts that it is the sum of."""

    total: int
    parts: Mapping[str, int]


@frozen
class Subscribers:
    """The subscribers that were found, and whether the request named one user."""

    found: Sequence[FakeSubscriber]
    one_user: bool


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def _plan_of_strings(plan: FakePlan) -> dict[str, Any]:
    return {
        "plan_id": str(plan.plan_id),
        "plan_name": plan.name,
        "duration": plan.duration,
        "cost": str(plan.cost),
        "currency": plan.currency,
        "recurring": str(int(plan.recurring)),
    }


def _plan_of_numbers(plan: FakePlan) -> dict[str, Any]:
    native = {"plan_id": plan.plan_id, "cost": _number(plan.cost), "recurring": plan.recurring}
    return _plan_of_strings(plan) | native


def _plans(row: Callable[[FakePlan], dict[str, Any]]) -> Shape:
    def render(plans: Sequence[FakePlan]) -> list[dict[str, Any]]:
        return [row(plan) for plan in plans]

    return render


def _token(token_name: str | None, link_name: str | None) -> Shape:
    def render(token: FakeToken) -> dict[str, str]:
        named = {token_name: token.value, link_name: token.link}
        return {name: value for name, value in named.items() if name is not None}

    return render


def _constant(value: object) -> Shape:
    return lambda _: value


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(sep=" ", timespec="seconds")


def _subscriber(subscriber: FakeSubscriber) -> dict[str, Any]:
    return {
        "user_id": str(subscriber.user_id),
        "plan_id": subscriber.plan_id,  # a JSON number: seen
        "started_at": _moment(subscriber.started_at),
        "expires_at": _moment(subscriber.expires_at),
    }


def _subscribers(*, empty: object, one_as_object: bool) -> Shape:
    def render(result: Subscribers) -> Any:
        rows = [_subscriber(subscriber) for subscriber in result.found]
        return rows[0] if len(rows) == 1 and result.one_user and one_as_object else rows or empty

    return render


def _count(total_name: str, *, breakdown: bool = False) -> Shape:
    def render(counts: Counts) -> dict[str, Any]:
        return {total_name: str(counts.total), **(counts.parts if breakdown else {})}

    return render


def _count_as_string(counts: Counts) -> str:
    return str(counts.total)


def _sums(amount_name: str) -> Shape:
    def render(sums: Mapping[str, Decimal]) -> list[dict[str, str]]:
        return [{amount_name: str(amount), "currency": currency} for currency, amount in sums.items()]

    return render


def _first_sum(amount_name: str, *, currency: bool = True) -> Shape:
    def render(sums: Mapping[str, Decimal]) -> dict[str, str]:
        code, amount = next(iter(sums.items()), ("EUR", Decimal(0)))
        return {amount_name: str(amount), **({"currency": code} if currency else {})}

    return render


def _first_sum_as_string(sums: Mapping[str, Decimal]) -> str:
    return str(next(iter(sums.values()), Decimal(0)))


def _first_sum_as_number(sums: Mapping[str, Decimal]) -> int | float:
    return _number(next(iter(sums.values()), Decimal(0)))


def _sum_by_currency(sums: Mapping[str, Decimal]) -> dict[str, str]:
    return {currency: str(amount) for currency, amount in sums.items()}


def _usage(name: str, count_name: str) -> Shape:
    def render(usage: Mapping[str, int]) -> list[dict[str, str]]:
        return [{name: method, count_name: str(count)} for method, count in usage.items()]

    return render


def _sales_row(sales: PlanSales, orders_name: str, amount_name: str) -> dict[str, str]:
    return {
        "plan_id": str(sales.plan.plan_id),
        "plan_name": sales.plan.name,
        orders_name: str(sales.orders),
        amount_name: str(sales.revenue),
        "currency": sales.plan.currency,
    }


def _sales(orders_name: str, amount_name: str) -> Shape:
    def render(rows: Sequence[PlanSales]) -> list[dict[str, str]]:
        return [_sales_row(row, orders_name, amount_name) for row in rows]

    return render


def _sales_by_plan(rows: Sequence[PlanSales]) -> dict[str, dict[str, str]]:
    named = {str(row.plan.plan_id): _sales_row(row, "orders", "revenue") for row in rows}
    return {plan_id: {name: row[name] for name in row if name != "plan_id"} for plan_id, row in named.items()}


def _secret(name: str) -> Shape:
    return lambda secret: {name: secret}


_COUNTS: Final[Mapping[str, Shape]] = {
    "string": _count_as_string,
    "number": attrgetter("total"),
    "count": _count("count"),
    "total": _count("total", breakdown=True),
    "orders": _count("orders", breakdown=True),
    "users": _count("users", breakdown=True),
}

SHAPES: Final[Mapping[str, Mapping[str, Shape]]] = {
    "addMember": {
        "object": _token("access_token", "link"),
        "token": attrgetter("value"),
        "link": attrgetter("link"),
        "token_object": _token("token", "url"),
        "code_object": _token("code", "access_link"),
        "link_object": _token(None, "link"),
        "true": _constant(value=True),
        "null": _constant(value=None),
        "list": _constant(value=["granted"]),
    },
    "getPlans": {"strings": _plans(_plan_of_strings), "numbers": _plans(_plan_of_numbers)},
    "getSubscribers": {
        "seen": _subscribers(empty=[], one_as_object=True),
        "list": _subscribers(empty=[], one_as_object=False),
        "null_if_none": _subscribers(empty=None, one_as_object=True),
        "object_if_none": _subscribers(empty={}, one_as_object=True),
    },
    "countOrders": _COUNTS,
    "countUsers": _COUNTS,
    "getRevenue": {
        "list": _sums("revenue"),
        "list_of_totals": _sums("total"),
        "list_of_amounts": _sums("amount"),
        "mapping": _sum_by_currency,
        "string": _first_sum_as_string,
        "number": _first_sum_as_number,
        "revenue": _first_sum("revenue"),
        "total": _first_sum("total"),
        "amount": _first_sum("amount", currency=False),
    },
    "mostPopularPaymentMethods": {
        "list": _usage("payment_method", "count"),
        "methods": _usage("method", "orders"),
        "names": _usage("name", "total"),
        "mapping": dict,
    },
    "plansPerformance": {
        "list": _sales("orders", "revenue"),
        "sales": _sales("sales", "amount"),
        "counts": _sales("count", "total"),
        "mapping": _sales_by_plan,
    },
    "webhook": {
        "secret": _secret("secret"),
        "webhook_secret": _secret("webhook_secret"),
        "string": str,
        "true": _constant(value=True),
        "null": _constant(value=None),
    },
    "deleteWebhook": {"true": _constant(value=True), "null": _constant(value=None), "list": _constant(value=[])},
}


def choose(shapes: Mapping[str, str]) -> dict[str, Shape]:
    """Return the shape of each method, by `shapes` or by default. Raises UsageError for unknown names."""
    for method, name in shapes.items():
        if name not in SHAPES.get(method, {}):
            known = ", ".join(SHAPES[method]) if method in SHAPES else f"the methods are {', '.join(SHAPES)}"
            msg = f"the fake service has no shape {name!r} for {method!r}: {known}"
            raise UsageError(msg)
    return {method: known[shapes.get(method, next(iter(known)))] for method, known in SHAPES.items()}


if not TYPE_CHECKING:  # type checkers see the new name only
    __getattr__ = former_names(__name__, Tally=Counts)
