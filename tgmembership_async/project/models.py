"""Models of the results of API v2. They are frozen, and keep unknown keys in `extra`.

All of it is *documented*, and was never run by us against the live service. The accepted keys are in `results.py`.
Times are aware UTC, ids are UUIDs in text form, and a user id is a Telegram id.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from tgmembership_async.values.duration import Duration
from tgmembership_async.values.frozen import EMPTY, freeze
from tgmembership_async.values.money import Money


@frozen
class Membership:
    """One membership of a user, active or past (documented).

    A field that is absent or invalid is None; the original of an invalid field is in `extra`. That a membership without
    `ends_at` does not end is *assumed*.
    """

    membership_id: str
    user_id: int | None = None
    plan_id: str | None = None
    payment_request_id: str | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    user_name: str | None = None
    plan_name: str | None = None
    plan_duration: Duration | None = None
    subscription_id: str | None = None
    subscription_status: str | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)

    def is_active(self, when: datetime) -> bool:
        """Tell whether it has begun and not ended at `when`, an aware time. Its subscription does not matter."""
        return (self.starts_at is None or self.starts_at <= when) and (self.ends_at is None or when < self.ends_at)


@frozen
class ProjectPlan:
    """A plan of a project; its keys are *assumed* but for `plan_id`."""

    plan_id: str
    name: str | None = None
    duration: Duration | None = None
    price: Money | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class ProjectUser:
    """A user of a project, also a banned one; its keys are *assumed* but for `user_id`."""

    user_id: int
    name: str | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Balance:
    """The balance of a user. Its currency is `""` if the service gives none."""

    amount: Money
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class BalanceChange:
    """The effect of an adjustment on a balance (documented)."""

    previous_balance: Decimal
    new_balance: Decimal
    adjustment: Decimal | None = None
    transaction_id: str | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class PaymentRequest:
    """A request for a payment. `url`, where the user pays, and `created_at` are *assumed*, and may be None."""

    payment_request_id: str
    user_id: int | None = None
    plan_id: str | None = None
    status: str | None = None
    request_type: str | None = None
    amount: Money | None = None
    settled_at: datetime | None = None
    created_at: datetime | None = None
    url: str | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Coupon:
    """The answer about a coupon; its keys are *assumed*. `is_valid` is None if the service says neither."""

    is_valid: bool | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)
