"""The accepted shapes and keys of the results of API v2, as tables. To accept one more key, add it to a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from tgmembership_async.project.models import (
    Balance,
    BalanceChange,
    Coupon,
    Membership,
    PaymentRequest,
    ProjectPlan,
    ProjectUser,
)
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.converter import read_array
from tgmembership_async.protocol.structuring.objects import (
    Column,
    MoneyColumn,
    Reader,
    as_object,
    is_array,
    row_reader,
    take,
)
from tgmembership_async.protocol.structuring.results import Alternatives, ShapeError, alternatives
from tgmembership_async.protocol.structuring.scalars import (
    Mismatch,
    boolean,
    decimal,
    duration,
    integer,
    secret,
    text,
    timestamp,
)
from tgmembership_async.values.models import AccessToken, Webhook

T = TypeVar("T")

_MEMBERSHIP: Final = (
    Column("membership_id", ("membership_id",), text, required=True),
    Column("user_id", ("user_id",), integer),
    Column("plan_id", ("plan_id",), text),
    Column("payment_request_id", ("payment_request_id",), text),
    Column("starts_at", ("membership_start_date",), timestamp),
    Column("ends_at", ("membership_end_date",), timestamp),
    Column("user_name", ("user_name",), text),
    Column("plan_name", ("plan_name",), text),
    Column("plan_duration", ("plan_duration",), duration),
    Column("subscription_id", ("subscription_id",), text),
    Column("subscription_status", ("subscription_status",), text),
)
_PLAN: Final = (
    Column("plan_id", ("plan_id", "id"), text, required=True),
    Column("name", ("plan_name", "name"), text),
    Column("duration", ("plan_duration", "duration"), duration),
    MoneyColumn("price", ("price", "cost", "amount")),
)
_USER: Final = (
    Column("user_id", ("user_id", "id"), integer, required=True),
    Column("name", ("user_name", "name"), text),
)
_BALANCE: Final = (MoneyColumn("amount", ("balance", "amount", "new_balance"), required=True),)
_CHANGE: Final = (
    Column("previous_balance", ("previous_balance",), decimal, required=True),
    Column("new_balance", ("new_balance",), decimal, required=True),
    Column("adjustment", ("adjustment",), decimal),
    Column("transaction_id", ("transaction_id",), text),
)
_PAYMENT_REQUEST: Final = (
    Column("payment_request_id", ("payment_request_id", "id"), text, required=True),
    Column("user_id", ("user_id",), integer),
    Column("plan_id", ("plan_id",), text),
    Column("status", ("status",), text),
    Column("request_type", ("request_type",), text),
    MoneyColumn("amount", ("amount",)),
    Column("settled_at", ("settled_at",), timestamp),
    Column("created_at", ("created_at",), timestamp),
    Column("url", ("checkout_url", "payment_url", "url", "link"), text),
)
_COUPON: Final = (Column("is_valid", ("valid", "is_valid"), boolean),)
EXPECTED: Final[Mapping[str, Alternatives]] = {
    "plans": alternatives(_PLAN),
    "users": alternatives(_USER),
    "ban": alternatives(_USER),
    "memberships": alternatives(_MEMBERSHIP),
    "payment-requests": alternatives(_PAYMENT_REQUEST),
}
"""The fields of the objects in each list, with the possible keys of each field."""


def _explained(read: Reader[T]) -> Callable[[Any], T]:
    """Return a reader that raises ShapeError, whose message says where and why, without values."""

    def reader(result: Any) -> T:
        try:
            return read(result)
        except Mismatch as mismatch:
            reason = printable(str(mismatch), 200)
        raise ShapeError(reason)

    return reader


def _one(model: Callable[..., T], columns: Sequence[Column]) -> Callable[[Any], T]:
    """Return a reader of an object, or of an array with one object."""
    read = row_reader(model, columns)
    return _explained(lambda result: read(result[0] if is_array(result) and len(result) == 1 else result))


def _many(model: Callable[..., T], columns: Sequence[Column]) -> Callable[[Any], list[T]]:
    """Return a reader of an array; null is an empty one."""
    read = row_reader(model, columns)
    return _explained(lambda result: [] if result is None else read_array(result, read))


memberships: Final = _many(Membership, _MEMBERSHIP)
plans: Final = _many(ProjectPlan, _PLAN)
user: Final = _one(ProjectUser, _USER)
users: Final = _many(ProjectUser, _USER)
balance: Final = _one(Balance, _BALANCE)
balance_change: Final = _one(BalanceChange, _CHANGE)
payment_request: Final = _one(PaymentRequest, _PAYMENT_REQUEST)
payment_requests: Final = _many(PaymentRequest, _PAYMENT_REQUEST)
coupon: Final = _one(Coupon, _COUPON)


def payment_link(result: Any) -> AccessToken:
    """Return what a ledger keeps of a new payment request; a reply of no accepted shape, too, says that it is there.

    Raises ShapeError for a reply without contents, which may come from a gateway.
    """
    try:
        made = payment_request(result)
    except ShapeError:
        if result is None:
            raise
        return AccessToken(raw=result)
    return kept(made)


def kept(made: PaymentRequest) -> AccessToken:
    """Return what a ledger keeps of a payment request: its URL as `link`, and its id as `raw`."""
    return AccessToken(link=made.url, raw=made.payment_request_id)


def webhook(result: Any, url: str) -> Webhook:
    """Read the webhook; its secret is None if the reply does not contain it."""
    try:
        left = as_object(result)
    except Mismatch:
        return Webhook(url)
    try:
        found = take(left, ("secret",), secret)
    except Mismatch:
        found = None
    return Webhook(url, found, left)
