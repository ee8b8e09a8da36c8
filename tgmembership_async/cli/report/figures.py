"""The figures of a report, from replies and a ledger to sections of labels and values. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

from attrs import frozen

from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.values.models import Count, PaymentMethodUsage, PlanPerformance, Revenue

Value = int | Decimal | None
Kind = Literal["cards", "bars", "columns"]
Days = Mapping[tuple[date, GrantStatus], int]

STATUSES: Final = (
    GrantStatus.DELIVERED,
    GrantStatus.GRANTED,
    GrantStatus.PLANNED,
    GrantStatus.SENDING,
    GrantStatus.UNKNOWN,
    GrantStatus.REFUSED,
    GrantStatus.ABANDONED,
)
_SPANS: Final = ((45, 1, "day"), (7 * 60, 7, "week"))
_MONTH: Final = "month"


@frozen
class Series:
    """One value for each label of a section; None where the service told none."""

    name: str
    values: tuple[Value, ...]


@frozen
class Section:
    """What stands under one heading: `cards` are single figures, `bars` compare things, `columns` go over time.

    `problem` says why there are no figures; it is empty where all is well.
    """

    title: str
    told: str
    kind: Kind
    labels: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    problem: str = ""

    @property
    def rows(self) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """Yield each label with its values, one of each series."""
        columns = zip(*(series.values for series in self.series), strict=True)
        return iter(zip(self.labels, columns, strict=True))


def glance(orders: Count | None, users: Count | None, revenue: Revenue | None) -> Section:
    """Return the totals."""
    figures: list[tuple[str, Value]] = []
    figures += [("Orders", orders.total)] if orders else []
    figures += [("Users", users.total)] if users else []
    figures += [
        (f"Revenue, {money.currency}".rstrip(", "), money.amount) for money in (revenue.amounts if revenue else ())
    ]
    return _section("At a glance", "All that the service has counted so far.", "cards", "total", figures)


def broken_down(title: str, count: Count) -> Iterator[Section]:
    """Yield what a count is made of, if the service told."""
    if count.breakdown:
        yield _bars(title, "As the service counts them, under its own names.", "count", count.breakdown.items())


def performance(plans: Sequence[PlanPerformance]) -> Iterator[Section]:
    """Yield the orders by plan, and the revenue by plan in each currency."""
    yield _bars("Orders by plan", "How often each plan was bought.", "orders", ((_name(p), p.orders) for p in plans))
    currencies = dict.fromkeys(plan.revenue.currency for plan in plans if plan.revenue is not None)
    for currency in currencies:
        paid = [(_name(p), p.revenue.amount) for p in plans if p.revenue is not None and p.revenue.currency == currency]
        title = f"Revenue by plan, {currency}".rstrip(", ")
        yield _bars(title, "What each plan brought in.", currency or "amount", paid)


def _name(plan: PlanPerformance) -> str:
    return plan.name or (f"Plan {plan.plan_id}" if plan.plan_id is not None else "A plan without a name")


def methods(used: Sequence[PaymentMethodUsage]) -> Section:
    """Return how customers paid."""
    pairs = ((method.name, method.count) for method in used)
    return _bars("Payment methods", "How often customers paid in each way.", "orders", pairs)


def over_time(days: Days) -> Section:
    """Return the grants of a ledger by the day, week or month of their last change, and by where they stand now."""
    title = "Grants over time"
    if not days:
        return Section(title, "The ledger has no grant yet.", "columns")
    first, last = min(day for day, _ in days), max(day for day, _ in days)
    step, unit = next(((step, unit) for most, step, unit in _SPANS if (last - first).days < most), (0, _MONTH))
    begins = list(_begins(first, last, step))
    found: Counter[tuple[date, GrantStatus]] = Counter()
    for (day, status), count in days.items():
        found[max(begin for begin in begins if begin <= day), status] += count
    shown = [status for status in STATUSES if any(found[begin, status] for begin in begins)]
    series = tuple(Series(status.value, tuple(found[begin, status] for begin in begins)) for status in shown)
    told = f"Grants of the ledger by the {unit} of their last change (UTC), and where they stand now."
    return Section(title, told, "columns", tuple(str(begin) for begin in begins), series)


def _begins(first: date, last: date, step: int) -> Iterator[date]:
    """Yield the first day of every span; a `step` of 0 is a month, and weeks begin on Monday."""
    begin = first.replace(day=1) if not step else first - timedelta(days=first.weekday() if step > 1 else 0)
    while begin <= last:
        yield begin
        begin = begin + timedelta(days=step) if step else (begin + timedelta(days=31)).replace(day=1)


def failed(title: str, problem: str) -> Section:
    """Return a section whose figures could not be had."""
    return Section(title, "", "bars", problem=problem)


def _bars(title: str, told: str, unit: str, pairs: Iterable[tuple[str, Value]]) -> Section:
    """Return bars, the longest first."""
    ordered = sorted(pairs, key=lambda pair: (pair[1] is None, -(pair[1] or 0)))
    return _section(title, told, "bars", unit, ordered)


def _section(title: str, told: str, kind: Kind, unit: str, pairs: Sequence[tuple[str, Value]]) -> Section:
    labels, values = tuple(name for name, _ in pairs), tuple(value for _, value in pairs)
    return Section(title, told, kind, labels, (Series(unit, values),))


def rows_of(sections: Iterable[Section]) -> Iterator[dict[str, Any]]:
    """Yield every figure as a row for a program."""
    for section in sections:
        if section.problem:
            yield {"section": section.title, "name": None, "series": None, "value": None, "problem": section.problem}
        for name, values in section.rows:
            for series, value in zip(section.series, values, strict=True):
                yield {"section": section.title, "name": name, "series": series.name, "value": value, "problem": None}
