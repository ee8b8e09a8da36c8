"""The sections that show sales, grants and subscriptions over time, by plan and by payment method. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tgmembership_async.cli.report.buckets import Unit, V, bucketed, label, unit_of
from tgmembership_async.cli.report.events import NEW, RENEWAL, UNTOLD, Days, Events
from tgmembership_async.cli.report.figures import Kind, PlanNames, Section, Series, section
from tgmembership_async.grants.model import SUCCEEDED, DayCount, GrantStatus
from tgmembership_async.values.models import Subscriber

STATUSES: Final = (
    GrantStatus.DELIVERED,
    GrantStatus.GRANTED,
    GrantStatus.PLANNED,
    GrantStatus.SENDING,
    GrantStatus.UNKNOWN,
    GrantStatus.REFUSED,
    GrantStatus.ABANDONED,
)
OTHER: Final = "other"
_MOST: Final = 5
_SOON: Final = timedelta(days=7)
_MONTH: Final = timedelta(days=30)
_QUARTER: Final = timedelta(days=90)
_EXPIRES: Final = ("expired", "within 7 days", "within 30 days", "later", "no date")
_EXPIRY_HUES: Final = dict(zip(_EXPIRES, ("refused", "unknown", "hue0", "hue1", "rest"), strict=True))
_HEADS: Final[Mapping[Unit, str]] = {"day": "day", "week": "week from", "month": "month", "year": "year"}


def over_time(
    title: str,
    text: str,
    counts: Mapping[tuple[date, str], V],
    by: Unit | None,
    hues: Mapping[str, str],
) -> Section:
    """Return stacked columns, one series for each of `hues` that has figures, in their order.

    Without `by`, the unit is chosen by the days that there are. `{unit}` in `text` is its name.
    """
    first, last = min(day for day, _ in counts), max(day for day, _ in counts)
    unit = by or unit_of(first, last)
    found = bucketed(counts, unit)
    used = {name for _, name in counts}
    return Section(
        title,
        text.format(unit=unit),
        "columns",
        tuple(label(begin, unit) for begin in found),
        tuple(
            Series(name, tuple(bucket.get(name, 0) for bucket in found.values()), hue)
            for name, hue in hues.items()
            if name in used
        ),
        head=_HEADS[unit],
    )


def _by_name(title: str, text: str, counts: Days, by: Unit | None) -> Iterator[Section]:
    """Yield the development of the largest names, with the others summed up; nothing without figures."""
    if counts:
        totals = Counter[str]()
        for (_, name), count in counts.items():
            totals[name] += count
        largest = sorted(totals, key=lambda name: (-totals[name], name))[:_MOST]
        hues = {name: f"hue{number}" for number, name in enumerate(sorted(largest))}
        shown = Days()
        for (day, name), count in counts.items():
            shown[day, name if name in hues else OTHER] += count
        yield over_time(title, text, shown, by, hues | ({} if OTHER in hues else {OTHER: "rest"}))


def grants(rows: Sequence[DayCount], names: PlanNames, by: Unit | None) -> Iterator[Section]:
    """Yield the grants of a ledger by status, and those that gave access by plan."""
    if not rows:
        yield Section("Grants over time", "The ledger has no grants.", "columns")
        return
    states, plans = Days(), Days()
    for row in rows:
        states[row.day, row.status] += row.count
        if row.status in SUCCEEDED:
            plans[row.day, names.of(row.plan_id)] += row.count
    text = "Number of grants per current status, by the {unit} of the grant or else of the last change (UTC)."
    yield over_time("Grants over time", text, states, by, {status.value: status.value for status in STATUSES})
    text = "Number of grants that are granted or delivered, by the {unit} of the grant (UTC)."
    yield from _by_name("Grants by plan", text, plans, by)


def sales(events: Events, by: Unit | None) -> Iterator[Section]:
    """Yield the sections of an inbox: orders and renewals, by plan and payment method, revenue and terminations."""
    if not events.orders:
        yield Section("Sales over time", "The inbox has no orders.", "columns")
    else:
        text = (
            "Number of orders in the inbox, by the {unit} of the payment (UTC). A renewal is an order of a user who "
            "ordered the same plan in an earlier event."
        )
        yield over_time("Sales over time", text, events.orders, by, {NEW: "hue0", RENEWAL: "hue1", UNTOLD: "rest"})
    text = "Number of orders in the inbox, by the {unit} of the payment (UTC)."
    yield from _by_name("Sales by plan", text, events.by_plan, by)
    yield from _by_name("Sales by payment method", text, events.by_method, by)
    for currency, days in sorted(events.revenue.items()):
        title = f"Revenue over time, {currency}".rstrip(", ")
        text = "Amounts of the orders in the inbox, by the {unit} of the payment (UTC)."
        yield over_time(title, text, days, by, {currency or "amount": "hue0"})
    text = "Number of memberships that ended according to the inbox, by the {unit} of their end (UTC)."
    yield from _by_name("Terminations over time", text, events.terminations, by)
    text = "Number of events of other names in the inbox, by the {unit} when they were received (UTC)."
    yield from _by_name("Other events", text, events.others, by)


def subscriptions(found: Iterable[Subscriber], now: datetime, names: PlanNames, by: Unit | None) -> Iterator[Section]:
    """Yield the service's subscriptions: by their expiry, also per plan, and their beginnings and ends over time."""
    totals, expiries, began, ends = Counter[str](), Counter[tuple[str, str]](), Days(), Days()
    for one in found:
        plan, expiry = names.of(one.plan_id), _expiry(one, now)
        totals[expiry] += 1
        expiries[plan, expiry] += 1
        if one.started_at is not None:
            began[one.started_at.astimezone(UTC).date(), plan] += 1
        if one.expires_at is not None and -_MONTH <= one.expires_at - now <= _QUARTER:
            ends[one.expires_at.astimezone(UTC).date(), plan] += 1
    text = "Subscriptions that the service lists, by the time of their end."
    cards = [
        ("Subscriptions", totals.total()),
        *((name.capitalize(), totals[name]) for name in _EXPIRES if totals[name]),
    ]
    yield section("Subscriptions", text, "cards", "total", cards)
    if expiries:
        yield _matrix("Expiry by plan", "Number of subscriptions per plan, by the time of their end.", "bars", expiries)
    text = "Number of subscriptions that the service lists, by the {unit} of their beginning (UTC)."
    yield from _by_name("Subscriptions by beginning", text, began, by)
    text = "Number of subscriptions that ended in the last 30 days or end in the next 90, by the {unit} (UTC)."
    yield from _by_name("Subscriptions by end", text, ends, by)


def _expiry(one: Subscriber, now: datetime) -> str:
    if one.expires_at is None:
        return "no date"
    left = one.expires_at - now
    return next((_EXPIRES[n] for n, most in enumerate((timedelta(0), _SOON, _MONTH)) if left <= most), "later")


def _matrix(title: str, text: str, kind: Kind, counts: Mapping[tuple[str, str], int]) -> Section:
    """Return a section with one row for each first name, the largest first, and one series for each second name."""
    totals = Counter[str]()
    for (row, _), count in counts.items():
        totals[row] += count
    rows = sorted(totals, key=lambda row: (-totals[row], row))
    used = {name for _, name in counts}
    series = (
        Series(name, tuple(counts.get((row, name), 0) for row in rows), hue)
        for name, hue in _EXPIRY_HUES.items()
        if name in used
    )
    return Section(title, text, kind, tuple(rows), tuple(series), head="plan")
