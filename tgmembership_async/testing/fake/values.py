"""The frozen values of the fake service, and sample plans."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from attrs import field, frozen

_UNIT_DAYS: Final = {"day": 1, "week": 7, "month": 30, "year": 365}


def _amount(value: str | int | Decimal) -> Decimal:
    return Decimal(value)


@frozen
class FakePlan:
    """A plan. `duration` is a text such as "1 month", as the service has it."""

    plan_id: int
    name: str = "My first plan"
    duration: str = "1 month"
    cost: Decimal = field(default=Decimal("9.99"), converter=_amount)
    currency: str = "EUR"
    recurring: bool = False

    def expiry(self, start: datetime) -> datetime | None:
        """Return when access from `start` ends, or None if `duration` is not a number of units (a month is 30 days)."""
        number, _, unit = self.duration.partition(" ")
        days = _UNIT_DAYS.get(unit.removesuffix("s"))
        return start + timedelta(days=int(number) * days) if days and number.isdecimal() else None


SAMPLE_PLANS: Final = (
    FakePlan(1),
    FakePlan(2, "A year of everything", "1 year", "99.00", recurring=True),
    FakePlan(3, "Trial", "0", "0"),
    FakePlan(4, "Weekend pass", "3 days", "250", "XTR"),
)


@frozen
class FakeToken:
    """A one-time access token. `used_by` is the id of the Telegram user who opened the link, or None."""

    value: str
    link: str
    plan_id: int
    member_id: int | None
    used_by: int | None = None


@frozen
class FakeOrder:
    """A paid order."""

    at: datetime
    plan_id: int
    user_id: int
    payment_method: str


@frozen
class FakeSubscriber:
    """A user with access to a plan. `expires_at` is None if the plan's `duration` has no number."""

    user_id: int
    plan_id: int
    started_at: datetime
    expires_at: datetime | None


@frozen
class FakeWebhook:
    """The URL to which events are sent, and the secret with which they are signed."""

    url: str
    secret: str = field(repr=False)


@frozen
class GrantRecord:
    """One grant that took effect: the number of its request, the time, and its token."""

    number: int
    at: datetime
    plan_id: int
    member_id: int | None
    token: str


@frozen
class RequestRecord:
    """One request. `faults` are the labels of the rules that fired. The API key is not recorded."""

    number: int
    at: datetime
    verb: str
    method: str
    faults: tuple[str, ...] = ()


@frozen
class PlanSales:
    """The number of orders and the revenue of one plan."""

    plan: FakePlan
    orders: int
    revenue: Decimal


class Refusal(Exception):
    """An error reply: a code, which is also the HTTP status, and a description for the envelope."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description
