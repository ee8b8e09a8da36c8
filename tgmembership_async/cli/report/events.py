"""Count the events of an inbox by day: orders, renewals, revenue and terminations."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, Self

from attrs import field, mutable

from tgmembership_async.cli.report.figures import PlanNames
from tgmembership_async.storage.sqlite.seen import Seen
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks.events import Event, MembershipTerminated, OrderCompleted, PaymentRequestCompleted

NEW: Final = "new"
RENEWAL: Final = "renewals"
UNTOLD: Final = "user not given"
_NOT_GIVEN: Final = "not given"
_CLOCKS_DIFFER: Final = timedelta(days=1)
Days = Counter[tuple[date, str]]


@mutable
class Events:
    """The totals of the events of an inbox. Use it in a `with`: it remembers who has ordered, in a temporary file.

    A renewal is an order of a user who has ordered the same plan in an earlier event.
    """

    names: PlanNames
    orders: Days = field(factory=Days)
    by_plan: Days = field(factory=Days)
    by_method: Days = field(factory=Days)
    revenue: dict[str, dict[tuple[date, str], Decimal]] = field(factory=dict[str, dict[tuple[date, str], Decimal]])
    terminations: Days = field(factory=Days)
    others: Days = field(factory=Days)
    number: int = 0
    _seen: Seen = field(factory=Seen, init=False)

    def __enter__(self) -> Self:
        self._seen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.__exit__()

    def add(self, event: Event) -> None:
        """Count an event, on the day that it names or else when it was received (UTC)."""
        self.number += 1
        match event:
            case OrderCompleted():
                day = _day(event.paid_at, event)
                self.orders[day, self._kind(event)] += 1
                self.by_plan[day, self.names.of(event.plan_id, event.plan_name)] += 1
                self.by_method[day, event.payment_method or _NOT_GIVEN] += 1
                self._earn(day, event.amount)
            case PaymentRequestCompleted():
                day = _day(event.settled_at, event)
                self.orders[day, UNTOLD] += 1
                self._earn(day, event.amount)
            case MembershipTerminated():
                day = _day(event.terminated_at, event)
                self.terminations[day, self.names.of(event.plan_id, event.plan_name)] += 1
            case _:
                self.others[_day(None, event), event.name] += 1

    def _kind(self, order: OrderCompleted) -> str:
        if order.user_id is None:
            return UNTOLD
        plan = order.plan_name if order.plan_id is None else order.plan_id
        return NEW if self._seen.add(f"{order.user_id} {plan}") else RENEWAL

    def _earn(self, day: date, amount: Money | None) -> None:
        if amount is not None:
            days = self.revenue.setdefault(amount.currency, {})
            key = (day, amount.currency or "amount")
            days[key] = days.get(key, Decimal(0)) + amount.amount


def _day(named: datetime | None, event: Event) -> date:
    """Return the day of an event. A time after its arrival is not used, unless clocks may explain the difference."""
    when = event.received_at if named is None or named > event.received_at + _CLOCKS_DIFFER else named
    return when.astimezone(UTC).date()
