"""What the fake service keeps: frozen values, and plans to play with."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from attrs import field, frozen

_UNIT_DAYS: Final = {"day": 1, "week": 7, "month": 30, "year": 365}


def _amount(value: str | int | Decimal) -> Decimal:
    return Decimal(value)


@frozen
class FakePlan:
    """A plan that members can be granted; `duration` is the service's own text."""

    plan_id: int
    name: str = "My first plan"
    duration: str = "1 month"
    cost: Decimal = field(default=Decimal("9.99"), converter=_amount)
    currency: str = "EUR"
    recurring: bool = False

    def expiry(self, start: datetime) -> datetime | None:
        """Return when access that began at `start` ends, or None where the text does not say (months of 30 days)."""
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
    """A one-time access token; `used_by` is the Telegram user who opened the link, None while nobody has."""

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
    """A user with access to a plan; `expires_at` is None where the plan's text does not say."""

    user_id: int
    plan_id: int
    started_at: datetime
    expires_at: datetime | None


@frozen
class FakeWebhook:
    """Where the service would send its events, and the secret it would sign them with."""

    url: str
    secret: str = field(repr=False)


@frozen
class GrantRecord:
    """One grant that took effect: the number of the request that made it, when, and the token that came of it."""

    number: int
    at: datetime
    plan_id: int
    member_id: int | None
    token: str


@frozen
class RequestRecord:
    """One request that arrived; `faults` are the labels of the rules that fired. The key is not in it."""

    number: int
    at: datetime
    verb: str
    method: str
    faults: tuple[str, ...] = ()


@frozen
class PlanSales:
    """What one plan has brought."""

    plan: FakePlan
    orders: int
    revenue: Decimal


class Refusal(Exception):
    """The service says no: a code, which is the HTTP status too, and a description for the envelope."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description
