"""The models: what the service's answers mean. Frozen, and what a model does not know it keeps in `extra`.

Which shapes of an answer are accepted, and under which keys, is a table in `protocol/structuring/results.py`.
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
    """Return what a repr shows of a value that it must not show."""
    return "None" if value is None else "***"


@frozen
class Plan:
    """What one can subscribe to (documented)."""

    plan_id: int
    name: str
    duration: Duration
    price: Money
    recurring: bool
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Subscriber:
    """Who has access to what: `user_id` is a Telegram id, times are aware UTC (`plan_id` seen, the rest assumed).

    A field that is absent or unreadable is None; what was unreadable stands in `extra`.
    """

    user_id: int | None = None
    plan_id: int | None = None
    started_at: datetime | None = None
    expires_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class AccessToken:
    """What opens the door once: `token` (a code), `link` (a URL) or both, and `raw`, the result as it came (assumed).

    Whoever reads one of these may join, so the repr shows none of them.
    """

    token: str | None = field(default=None, repr=mask)
    link: str | None = field(default=None, repr=mask)
    raw: Any = field(default=None, repr=mask, hash=False)
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen
class Count:
    """A number of things; `int(count)` is the total. `breakdown` holds further numbers by their names (assumed)."""

    total: int
    breakdown: Mapping[str, int] = field(default=EMPTY, converter=freeze, hash=False)
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)

    def __int__(self) -> int:
        return self.total


@frozen
class Revenue:
    """What came in, one amount per currency or as the service lists it (assumed)."""

    amounts: tuple[Money, ...] = ()
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class PaymentMethodUsage:
    """How often customers paid in one way (assumed)."""

    name: str
    count: int | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class PlanPerformance:
    """What one plan sold (assumed)."""

    plan_id: int | None = None
    name: str | None = None
    orders: int | None = None
    revenue: Money | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False)


@frozen
class Webhook:
    """The webhook that is now set. `secret` signs its deliveries; None where the service did not tell it (assumed).

    With a secret it cannot be pickled, as no Secret can.
    """

    url: str
    secret: Secret | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen
class Reply(Generic[T]):
    """A whole successful answer: the result, and what the envelope and the way there had to say.

    `code` is None where the service sent none that reads; `attempts` counts requests, `elapsed` is in seconds.
    The repr does not show `result` and `extra`: for some methods they hold an access token or a secret.
    """

    result: T = field(repr=mask)
    code: int | None = None
    description: str | None = None
    request_id: str | None = None
    attempts: int = 1
    elapsed: float = 0.0
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)
