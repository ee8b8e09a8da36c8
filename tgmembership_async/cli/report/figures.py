"""The sections of a report, and those with the service's totals: labels and values. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

from attrs import frozen

from tgmembership_async.values.models import Count, PaymentMethodUsage, PlanPerformance, Revenue

Value = int | Decimal | None
Commands = tuple[tuple[str, str], ...]
Kind = Literal["cards", "bars", "columns", "held"]

COLUMNS: Final = ("section", "name", "series", "value", "problem", "command")
_NO_PLAN: Final = "plan not given"


@frozen
class Series:
    """One value for each label of a section; None if the service gives none. `hue` names its colour."""

    name: str
    values: tuple[Value, ...]
    hue: str = "hue0"


@frozen
class Hold:
    """A grant that waits for a decision, with the command of each one: what it decides, and the command line."""

    ref: str
    status: str
    about: str
    why: str
    commands: Commands


@frozen
class Section:
    """One section: `cards` are single figures, `bars` compare items, `columns` show a development over time.

    `held` lists the grants of `holds`, and `commands` about all of them. `head` is the heading of the labels, `problem`
    the reason why there are no figures, or empty.
    """

    title: str
    text: str
    kind: Kind
    labels: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    problem: str = ""
    head: str = "name"
    holds: tuple[Hold, ...] = ()
    commands: Commands = ()

    @property
    def rows(self) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """Yield each label with its values, one of each series."""
        columns = zip(*(series.values for series in self.series), strict=True)
        return iter(zip(self.labels, columns, strict=True))


class PlanNames:
    """The names of plans by id, as the service gives them; two plans of one name are distinguished by their ids."""

    def __init__(self, plans: Iterable[PlanPerformance] = ()) -> None:
        named = ((plan.plan_id, plan.name) for plan in plans)
        self._names: dict[int | str, str] = {number: name for number, name in named if number is not None and name}

    def of(self, plan_id: int | str | None, name: str | None = None) -> str:
        """Return what to call a plan; `name` is used if the service gives none."""
        if plan_id is None:
            return name or _NO_PLAN
        found = self._names.get(plan_id, name)
        if not found:
            return f"Plan {plan_id}"
        return f"{found} ({plan_id})" if list(self._names.values()).count(found) > 1 else found


def glance(orders: Count | None, users: Count | None, revenue: Revenue | None) -> Section:
    """Return the totals."""
    figures: list[tuple[str, Value]] = []
    figures += [("Orders", orders.total)] if orders else []
    figures += [("Users", users.total)] if users else []
    figures += [
        (f"Revenue, {money.currency}".rstrip(", "), money.amount) for money in (revenue.amounts if revenue else ())
    ]
    return section("At a glance", "All-time totals, as counted by the service.", "cards", "total", figures)


def broken_down(title: str, count: Count) -> Iterator[Section]:
    """Yield the breakdown of a count, if the service gives one."""
    if count.breakdown:
        yield _bars(title, "Counts and names as the service gives them.", "count", count.breakdown.items())


def performance(plans: Sequence[PlanPerformance]) -> Iterator[Section]:
    """Yield the orders by plan, and the revenue by plan in each currency."""
    names = PlanNames(plans)
    pairs = [(names.of(plan.plan_id, plan.name), plan) for plan in plans]
    yield _bars("Orders by plan", "Number of orders per plan.", "orders", ((name, plan.orders) for name, plan in pairs))
    currencies = dict.fromkeys(plan.revenue.currency for plan in plans if plan.revenue is not None)
    for currency in currencies:
        paid = [
            (name, plan.revenue.amount)
            for name, plan in pairs
            if plan.revenue is not None and plan.revenue.currency == currency
        ]
        title = f"Revenue by plan, {currency}".rstrip(", ")
        yield _bars(title, "Revenue per plan.", currency or "amount", paid)


def methods(used: Sequence[PaymentMethodUsage]) -> Section:
    """Return the orders by payment method."""
    pairs = ((method.name, method.count) for method in used)
    return _bars("Payment methods", "Number of orders per payment method.", "orders", pairs)


def failed(title: str, problem: str) -> Section:
    """Return a section without figures, because of `problem`."""
    return Section(title, "", "bars", problem=problem)


def _bars(title: str, text: str, unit: str, pairs: Iterable[tuple[str, Value]]) -> Section:
    """Return bars, the longest first."""
    ordered = sorted(pairs, key=lambda pair: (pair[1] is None, -(pair[1] or 0)))
    return section(title, text, "bars", unit, ordered)


def section(title: str, text: str, kind: Kind, unit: str, pairs: Sequence[tuple[str, Value]]) -> Section:
    """Return a section with one series."""
    labels, values = tuple(name for name, _ in pairs), tuple(value for _, value in pairs)
    return Section(title, text, kind, labels, (Series(unit, values),))


def sum_of(values: Iterable[Value]) -> Value:
    """Return the sum of the values of one label, or None if all are None."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def figure(value: Value) -> str:
    """Return a figure as text."""
    return "not given" if value is None else f"{value:,}"


def rows_of(sections: Iterable[Section]) -> Iterator[dict[str, Any]]:
    """Yield every figure, and every command for a held grant, as a row of JSON or CSV."""
    for one in sections:
        if one.problem:
            yield _row(section=one.title, problem=one.problem)
        for name, values in one.rows:
            for series, value in zip(one.series, values, strict=True):
                yield _row(section=one.title, name=name, series=series.name, value=value)
        for _, line in one.commands:
            yield _row(section=one.title, command=line)
        for hold in one.holds:
            for _, line in hold.commands:
                yield _row(section=one.title, name=hold.ref, series=hold.status, problem=hold.why, command=line)


def _row(**fields: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | fields
