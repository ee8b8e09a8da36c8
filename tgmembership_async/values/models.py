"""Models of the service's results. They are frozen, and keep unknown keys in `extra`.

The accepted shapes and keys of each result are listed in `protocol/structuring/results.py`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from tgmembership_async.values.duration import Duration
from tgmembership_async.values.frozen import EMPTY, freeze
from tgmembership_async.values.money import Money
from tgmembership_async.values.secret import Secret

T = TypeVar("T")


def mask(value: object) -> str:
    """Return the repr of a secret value: `***`, or None if there is none."""
    return "None" if value is None else "***"


@frozen
class Plan:
    """A plan that users can subscribe to (documented)."""

    plan_id: int
    name: str
    duration: Duration
    price: Money
    recurring: bool
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Subscriber:
    """A subscription: `user_id` is a Telegram id, times are aware UTC (`plan_id` seen, the rest assumed).

    A field that is absent or invalid is None; the original of an invalid field is in `extra`.
    """

    user_id: int | None = None
    plan_id: int | None = None
    started_at: datetime | None = None
    expires_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class AccessToken:
    """A one-time access token: `token` (a code), `link` (a URL) or both, and `raw`, the original result (assumed).

    Each of them grants access, so the repr shows none of them.
    """

    token: str | None = field(default=None, repr=mask)
    link: str | None = field(default=None, repr=mask)
    raw: Any = field(default=None, repr=mask, hash=False)
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)

    @property
    def best(self) -> str | None:
        """Return what to give the member: the link, else the token; None if only `raw` may have it."""
        return self.link or self.token


@frozen
class Count:
    """A count; `int(count)` is `total`. `breakdown` holds further numbers by name (assumed)."""

    total: int
    breakdown: Mapping[str, int] = field(default=EMPTY, converter=freeze, hash=False)
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)

    def __int__(self) -> int:
        return self.total


@frozen
class Revenue:
    """The revenue, one amount per currency or as the service lists it (assumed)."""

    amounts: tuple[Money, ...] = ()
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class PaymentMethodUsage:
    """The number of payments with one payment method (assumed)."""

    name: str
    count: int | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class PlanPerformance:
    """The orders and revenue of one plan (assumed)."""

    plan_id: int | None = None
    name: str | None = None
    orders: int | None = None
    revenue: Money | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Webhook:
    """The current webhook. `secret` signs its deliveries; None if the reply did not contain it (assumed).

    A Webhook with a secret cannot be pickled.
    """

    url: str
    secret: Secret | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen
class Reply(Generic[T]):
    """A successful reply: the result, the other fields of the envelope, and facts about the call.

    `code` is None if the service sent no valid one; `attempts` is the number of attempts, `elapsed` is in seconds.
    The repr hides `result` and `extra`, which hold an access token or a secret for some methods.
    """

    result: T = field(repr=mask)
    code: int | None = None
    description: str | None = None
    request_id: str | None = None
    attempts: int = 1
    elapsed: float = 0.0
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)
