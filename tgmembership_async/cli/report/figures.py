"""Convert replies and grants to the sections of a report: labels and values. Pure."""

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
    """One value for each label of a section; None where the service gives none."""

    name: str
    values: tuple[Value, ...]


@frozen
class Section:
    """One section: `cards` are single figures, `bars` compare items, `columns` show a development over time.

    `problem` is the reason why there are no figures, or empty.
    """

    title: str
    text: str
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
    return _section("At a glance", "All-time totals, as counted by the service.", "cards", "total", figures)


def broken_down(title: str, count: Count) -> Iterator[Section]:
    """Yield the breakdown of a count, if the service gives one."""
    if count.breakdown:
        yield _bars(title, "Counts and names as the service gives them.", "count", count.breakdown.items())


def performance(plans: Sequence[PlanPerformance]) -> Iterator[Section]:
    """Yield the orders by plan, and the revenue by plan in each currency."""
    yield _bars("Orders by plan", "Number of orders per plan.", "orders", ((_name(p), p.orders) for p in plans))
    currencies = dict.fromkeys(plan.revenue.currency for plan in plans if plan.revenue is not None)
    for currency in currencies:
        paid = [(_name(p), p.revenue.amount) for p in plans if p.revenue is not None and p.revenue.currency == currency]
        title = f"Revenue by plan, {currency}".rstrip(", ")
        yield _bars(title, "Revenue per plan.", currency or "amount", paid)


def _name(plan: PlanPerformance) -> str:
    return plan.name or (f"Plan {plan.plan_id}" if plan.plan_id is not None else "A plan without a name")


def methods(used: Sequence[PaymentMethodUsage]) -> Section:
    """Return the orders by payment method."""
    pairs = ((method.name, method.count) for method in used)
    return _bars("Payment methods", "Number of orders per payment method.", "orders", pairs)


def over_time(days: Days) -> Section:
    """Return the number of grants per status, by the day, week or month of their last change."""
    title = "Grants over time"
    if not days:
        return Section(title, "The ledger has no grants.", "columns")
    first, last = min(day for day, _ in days), max(day for day, _ in days)
    step, unit = next(((step, unit) for most, step, unit in _SPANS if (last - first).days < most), (0, _MONTH))
    begins = list(_begins(first, last, step))
    found: Counter[tuple[date, GrantStatus]] = Counter()
    for (day, status), count in days.items():
        found[max(begin for begin in begins if begin <= day), status] += count
    shown = [status for status in STATUSES if any(found[begin, status] for begin in begins)]
    series = tuple(Series(status.value, tuple(found[begin, status] for begin in begins)) for status in shown)
    text = f"Number of grants per current status, by the {unit} of their last change (UTC)."
    return Section(title, text, "columns", tuple(str(begin) for begin in begins), series)


def _begins(first: date, last: date, step: int) -> Iterator[date]:
    """Yield the first day of every span; a `step` of 0 is a month, and weeks begin on Monday."""
    begin = first.replace(day=1) if not step else first - timedelta(days=first.weekday() if step > 1 else 0)
    while begin <= last:
        yield begin
        begin = begin + timedelta(days=step) if step else (begin + timedelta(days=31)).replace(day=1)


def failed(title: str, problem: str) -> Section:
    """Return a section without figures, because of `problem`."""
    return Section(title, "", "bars", problem=problem)


def _bars(title: str, text: str, unit: str, pairs: Iterable[tuple[str, Value]]) -> Section:
    """Return bars, the longest first."""
    ordered = sorted(pairs, key=lambda pair: (pair[1] is None, -(pair[1] or 0)))
    return _section(title, text, "bars", unit, ordered)


def _section(title: str, text: str, kind: Kind, unit: str, pairs: Sequence[tuple[str, Value]]) -> Section:
    labels, values = tuple(name for name, _ in pairs), tuple(value for _, value in pairs)
    return Section(title, text, kind, labels, (Series(unit, values),))


def rows_of(sections: Iterable[Section]) -> Iterator[dict[str, Any]]:
    """Yield every figure as a row of JSON or CSV."""
    for section in sections:
        if section.problem:
            yield {"section": section.title, "name": None, "series": None, "value": None, "problem": section.problem}
        for name, values in section.rows:
            for series, value in zip(section.series, values, strict=True):
                yield {"section": section.title, "name": name, "series": series.name, "value": value, "problem": None}
