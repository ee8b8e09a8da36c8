"""Parse the body of an authentic delivery into an Event.

The envelope `{"event", "debug_id", "data"}` and two event names are *documented*. The fields of `data` are not
documented: the tables below say which fields are read, and all of that is *assumed*. Unread fields are kept in `extra`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final, NoReturn

from attrs import field, frozen

from tgmembership_async.errors import Unreadable
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.objects import Column, MoneyColumn, is_object
from tgmembership_async.protocol.structuring.scalars import Mismatch, integer, text, timestamp
from tgmembership_async.values.frozen import EMPTY, freeze
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks.signature import Delivery

_LONGEST_NAME: Final = 200


@frozen(kw_only=True)
class Event:
    """One event of the service. Times are aware UTC. `data` is the complete object that the service sent.

    `debug_id` is for the service's support team and not unique (*documented*). `fingerprint` identifies the event: a
    repeat has the same fingerprint, even if it was signed again. Use it as your idempotency key. `attempt` is the
    number, from 1, of this attempt to handle the event. `envelope` holds the undocumented fields of the body.

    `needs_handler` is a fact of the class: True makes it a failed attempt if no handler takes the event.
    """

    needs_handler: ClassVar[bool] = False

    name: str
    debug_id: str = ""
    data: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)
    received_at: datetime
    signed_at: datetime
    fingerprint: str
    attempt: int = 1
    envelope: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen(kw_only=True)
class OrderCompleted(Event):
    """A customer has paid (`order_completed`, *documented*). A missing or unreadable field is None (*assumed*).

    `user_id` is a Telegram id. `extra` holds the fields of `data` that were not read.
    """

    order_id: str | None = None
    user_id: int | None = None
    plan_id: int | None = None
    plan_name: str | None = None
    amount: Money | None = None
    payment_method: str | None = None
    paid_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen(kw_only=True)
class MembershipTerminated(Event):
    """Access has ended (`membership_terminated`, *documented*). A missing or unreadable field is None (*assumed*).

    `user_id` is a Telegram id. `extra` holds the fields of `data` that were not read.
    """

    user_id: int | None = None
    plan_id: int | None = None
    plan_name: str | None = None
    reason: str | None = None
    terminated_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen(kw_only=True)
class PaymentRequestCompleted(Event):
    """A payment request of API v2 was paid (`payment-request.completed`, *documented*), also that of a top-up.

    It names neither user nor plan. A Receiver with a `project` finds out, and hands on `MembershipPaid`,
    `BalanceToppedUp` or `PaymentUnexplained` in its place; they are kinds of this event. A missing or unreadable field
    is None.
    """

    payment_request_id: str | None = None
    project_id: str | None = None
    amount: Money | None = None
    settled_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen(kw_only=True)
class UnknownEvent(Event):
    """An event with another name. Those of renewals, cancellations and donations are not documented."""


_ORDER: Final = (
    Column("order_id", ("order_id", "id", "payment_id"), text),
    Column("user_id", ("user_id", "member_id", "telegram_id"), integer),
    Column("plan_id", ("plan_id",), integer),
    Column("plan_name", ("plan_name",), text),
    MoneyColumn("amount", ("amount", "cost", "price", "total")),
    Column("payment_method", ("payment_method", "method"), text),
    Column("paid_at", ("paid_at", "completed_at", "created_at", "date"), timestamp),
)
_TERMINATION: Final = (
    Column("user_id", ("user_id", "member_id", "telegram_id"), integer),
    Column("plan_id", ("plan_id",), integer),
    Column("plan_name", ("plan_name",), text),
    Column("reason", ("reason",), text),
    Column("terminated_at", ("terminated_at", "ended_at", "expired_at", "expires_at", "date"), timestamp),
)
_PAYMENT_REQUEST: Final = (
    Column("payment_request_id", ("payment_request_id",), text),
    Column("project_id", ("project_id",), text),
    MoneyColumn("amount", ("amount",)),
    Column("settled_at", ("settled_at",), timestamp),
)
_KNOWN: Final[Mapping[str, tuple[Callable[..., Event], tuple[Column, ...]]]] = {
    "order_completed": (OrderCompleted, _ORDER),
    "membership_terminated": (MembershipTerminated, _TERMINATION),
    "payment-request.completed": (PaymentRequestCompleted, _PAYMENT_REQUEST),
}


def identify(delivery: Delivery) -> tuple[str, str]:
    """Return the name and the fingerprint of the event of an authentic delivery, in half the time of `read_event`.

    Raises Unreadable if the body is not an event.
    """
    name, data, others = _parts(delivery.body)
    return name, fingerprint(name, data, others.get("id"))


def read_event(delivery: Delivery, received_at: datetime) -> Event:
    """Return the event of an authentic delivery. Raises Unreadable if the body is not an event."""
    name, data, others = _parts(delivery.body)
    kind, columns = _KNOWN.get(name, (UnknownEvent, ()))
    left = dict(data)
    fields: dict[str, Any] = {column.field: column.take(left) for column in columns}
    if columns:
        fields["extra"] = left
    return kind(
        name=name,
        debug_id=_debug_id(others.pop("debug_id", None)),
        data=data,
        received_at=received_at,
        signed_at=delivery.signed_at,
        fingerprint=fingerprint(name, data, others.get("id")),
        envelope=others,
        **fields,
    )


def fingerprint(name: str, data: Mapping[str, Any], unique_id: object = None) -> str:
    """Return a digest of the name and the data of an event, which is the same for its repeats.

    `unique_id` is the `id` of an event in the later generation of the service (*documented*, v2). Raises Unreadable if
    the data is nested too deeply.
    """
    same = [name, data] if unique_id is None else [name, data, unique_id]
    try:
        canonical = _CANONICAL.encode(same)
    except RecursionError:
        raise _too_deep() from None
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _number(value: object) -> list[str]:
    return ["number", str(value)]  # a Decimal with all its digits


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_number)


def _parts(body: bytes) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the name of an event, its data, and the other fields of the body."""
    content = _content(body)
    return _name(content.pop("event", None)), _data(content.pop("data", None)), content


def _content(body: bytes) -> dict[str, Any]:
    try:
        content: Any = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, ArithmeticError):
        why = "the body is not JSON"
    else:
        if is_object(content):
            return content
        why = "the JSON is not an object"
    raise _unreadable(why)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)  # `json.loads` makes one for each body


def _name(value: object) -> str:
    if isinstance(value, str) and value.strip() and len(value) <= _LONGEST_NAME:
        return value
    why = "'event' is not the name of an event"
    raise _unreadable(why)


def _data(value: object) -> dict[str, Any]:
    if value is None or value == []:
        return {}  # PHP serializes an empty object as `[]`
    if is_object(value):
        return value
    why = "'data' is not an object"
    raise _unreadable(why)


def _debug_id(value: object) -> str:
    try:
        return "" if value is None else printable(text(value), _LONGEST_NAME)
    except Mismatch:
        return ""


def _too_deep() -> Unreadable:
    return _unreadable("the JSON is nested too deeply")


def _unreadable(why: str) -> Unreadable:
    return Unreadable(f"authentic, but not an event: {why}")
