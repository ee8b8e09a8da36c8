"""What happened: an authentic body to an Event.

The envelope `{"event", "debug_id", "data"}` and two names of events are *documented*, the fields of `data` are not: how
they are read is *assumed*, and stands in the tables below and nowhere else. Nothing that arrives is lost.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

from attrs import field, frozen

from tgmembership_async.errors import Unreadable
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.objects import Column, MoneyColumn, is_object
from tgmembership_async.protocol.structuring.scalars import Misfit, integer, moment, text
from tgmembership_async.values.frozen import EMPTY, freeze
from tgmembership_async.values.money import Money
from tgmembership_async.webhooks.signature import Delivery

_LONGEST_NAME: Final = 200


@frozen(kw_only=True)
class Event:
    """One event of the service. Times are aware UTC; `data` is the service's own object, whole.

    `debug_id` is for its support team and not unique (documented), so it tells no events apart. `fingerprint` does: the
    same for a repeat of this event, however it was signed; use it as your own idempotency key. `attempt` counts, from
    1, how often this event was handed to handlers. `envelope` is what stands in the body beside the documented fields.
    """

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
    """A customer has paid (`order_completed`, documented). What is absent or unreadable is None (all of it *assumed*).

    `user_id` is a Telegram id; what of `data` was not read stands in `extra`.
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
    """Access has ended (`membership_terminated`, documented). What is absent or unreadable is None (*assumed*).

    `user_id` is a Telegram id; what of `data` was not read stands in `extra`.
    """

    user_id: int | None = None
    plan_id: int | None = None
    plan_name: str | None = None
    reason: str | None = None
    terminated_at: datetime | None = None
    extra: Mapping[str, Any] = field(default=EMPTY, converter=freeze, hash=False, repr=False)


@frozen(kw_only=True)
class UnknownEvent(Event):
    """An event of any other name: renewals, cancellations and donations exist, nobody outside knows their names."""


_ORDER: Final = (
    Column("order_id", ("order_id", "id", "payment_id"), text),
    Column("user_id", ("user_id", "member_id", "telegram_id"), integer),
    Column("plan_id", ("plan_id",), integer),
    Column("plan_name", ("plan_name",), text),
    MoneyColumn("amount", ("amount", "cost", "price", "total")),
    Column("payment_method", ("payment_method", "method"), text),
    Column("paid_at", ("paid_at", "completed_at", "created_at", "date"), moment),
)
_TERMINATION: Final = (
    Column("user_id", ("user_id", "member_id", "telegram_id"), integer),
    Column("plan_id", ("plan_id",), integer),
    Column("plan_name", ("plan_name",), text),
    Column("reason", ("reason",), text),
    Column("terminated_at", ("terminated_at", "ended_at", "expired_at", "expires_at", "date"), moment),
)
_KNOWN: Final[Mapping[str, tuple[Callable[..., Event], tuple[Column, ...]]]] = {
    "order_completed": (OrderCompleted, _ORDER),
    "membership_terminated": (MembershipTerminated, _TERMINATION),
}


def read_event(delivery: Delivery, received_at: datetime) -> Event:
    """Return the event of an authentic delivery, or raise Unreadable."""
    content = _content(delivery.body)
    name, data = _name(content.pop("event", None)), _data(content.pop("data", None))
    kind, columns = _KNOWN.get(name, (UnknownEvent, ()))
    left = dict(data)
    fields: dict[str, Any] = {column.field: column.take(left) for column in columns}
    if columns:
        fields["extra"] = left
    return kind(
        name=name,
        debug_id=_debug_id(content.pop("debug_id", None)),
        data=data,
        received_at=received_at,
        signed_at=delivery.signed_at,
        fingerprint=fingerprint(name, data, content.get("id")),
        envelope=content,
        **fields,
    )


def fingerprint(name: str, data: Mapping[str, Any], unique_id: object = None) -> str:
    """Return what an event has in common with its repeats and with no other event: a digest of its name and its data.

    `unique_id` is the `id` that a later generation of the service gives each event (documented, v2). Raises Unreadable
    for what nests too deeply.
    """
    same = [name, data] if unique_id is None else [name, data, unique_id]
    try:
        canonical = json.dumps(same, sort_keys=True, separators=(",", ":"), default=_number)
    except RecursionError:
        raise _too_deep() from None
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _number(value: object) -> list[str]:
    return ["number", str(value)]  # a Decimal, to its last digit


def _content(body: bytes) -> dict[str, Any]:
    try:
        content: Any = json.loads(body, parse_float=Decimal, parse_constant=_refuse)
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


def _name(value: object) -> str:
    if isinstance(value, str) and value.strip() and len(value) <= _LONGEST_NAME:
        return value
    why = "'event' is not the name of an event"
    raise _unreadable(why)


def _data(value: object) -> dict[str, Any]:
    if value is None or value == []:
        return {}  # an empty object is `[]` to a service written in PHP
    if is_object(value):
        return value
    why = "'data' is not an object"
    raise _unreadable(why)


def _debug_id(value: object) -> str:
    try:
        return "" if value is None else printable(text(value), _LONGEST_NAME)
    except Misfit:
        return ""


def _too_deep() -> Unreadable:
    return _unreadable("the JSON is nested too deeply")


def _unreadable(why: str) -> Unreadable:
    return Unreadable(f"authentic, but not an event: {why}")
