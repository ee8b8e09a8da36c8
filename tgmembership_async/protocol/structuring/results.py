"""The accepted shapes and keys of all results, as tables, and the functions that read results with them.

The keys of a Plan are *documented*, all other shapes are *assumed*. So an invalid Plan is an error; elsewhere, an
invalid optional field is None, and its original is in `extra`. To accept one more key, add it to a table.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar

from cattrs import Converter

from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.columns import rows_reader
from tgmembership_async.protocol.structuring.converter import explain, new_converter, read_array, read_object
from tgmembership_async.protocol.structuring.objects import (
    CURRENCY,
    Column,
    MoneyColumn,
    as_object,
    is_array,
    is_object,
    row_reader,
    take,
    take_money,
)
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
from tgmembership_async.values.models import (
    AccessToken,
    Count,
    PaymentMethodUsage,
    Plan,
    PlanPerformance,
    Revenue,
    Subscriber,
    Webhook,
)
from tgmembership_async.values.money import Money

T = TypeVar("T")

_PLAN: Final = (
    Column("plan_id", ("plan_id",), integer, required=True),
    Column("name", ("plan_name",), text, required=True),
    Column("duration", ("duration",), duration, required=True),
    MoneyColumn("price", ("cost",), required=True),
    Column("recurring", ("recurring",), boolean, required=True),
)
_SUBSCRIBER: Final = (
    Column("user_id", ("user_id",), integer),
    Column("plan_id", ("plan_id",), integer),
    Column("started_at", ("started_at",), timestamp),
    Column("expires_at", ("expires_at",), timestamp),
)
_PAYMENT_METHOD: Final = (
    Column("name", ("payment_method", "method", "name"), text, required=True),
    Column("count", ("count", "orders", "total"), integer),
)
_PERFORMANCE: Final = (
    Column("plan_id", ("plan_id",), integer),
    Column("name", ("plan_name",), text),
    Column("orders", ("orders", "sales", "count"), integer),
    MoneyColumn("revenue", ("revenue", "amount", "total")),
)
_TOTAL: Final = ("count", "total", "orders", "users")
_AMOUNT: Final = ("revenue", "total", "amount")
_TOKEN: Final = ("access_token", "token", "code")
_LINK: Final = ("link", "url", "access_link")
_SECRET: Final = ("secret", "webhook_secret")

Alternatives = tuple[tuple[str, ...], ...]


def alternatives(columns: Sequence[Column]) -> Alternatives:
    """Return the possible keys of each column."""
    money = any(isinstance(column, MoneyColumn) for column in columns)
    return (*(column.keys for column in columns), *(((CURRENCY,),) if money else ()))


EXPECTED: Final[Mapping[str, Alternatives]] = {
    "countOrders": (_TOTAL,),
    "countUsers": (_TOTAL,),
    "getPlans": alternatives(_PLAN),
    "getRevenue": (_AMOUNT, (CURRENCY,)),
    "getSubscribers": alternatives(_SUBSCRIBER),
    "mostPopularPaymentMethods": alternatives(_PAYMENT_METHOD),
    "plansPerformance": alternatives(_PERFORMANCE),
}
"""The fields of the objects in the result of each read method, with the possible keys of each field."""
BY_KEY: Final = frozenset({"getRevenue", "mostPopularPaymentMethods", "plansPerformance"})
"""The methods whose result may be an object keyed by currency, name or plan id instead of by field."""

_URL: Final = re.compile(r"\s*(?:(?:https?|tg)://|t\.me/)", re.IGNORECASE)
_LONGEST_REASON: Final = 200
_ROWS_AT_ONCE: Final = 1_000
_FIRST_STEP: Final = re.compile(r"^\$\[([0-9]+)\]")


class ShapeError(ValueError):
    """A result has no accepted shape. The message says where and why in at most 200 characters, without values."""


_plan: Final = row_reader(Plan, _PLAN)
_subscriber: Final = row_reader(Subscriber, _SUBSCRIBER)
_subscriber_rows: Final = rows_reader(Subscriber, _SUBSCRIBER)
_payment_method: Final = row_reader(PaymentMethodUsage, _PAYMENT_METHOD)
_plan_performance: Final = row_reader(PlanPerformance, _PERFORMANCE)


def _subscribers(result: object) -> list[Subscriber]:
    """Read a list of objects, one object (seen), or an empty result."""
    if is_array(result):
        return _subscriber_rows(result)
    return [_subscriber(result)] if result not in (None, {}) else []


def _count(result: object) -> Count:
    """Read a number, or an object with a total; its other numbers are the breakdown."""
    if not is_object(result):
        return Count(integer(result))
    left = as_object(result)
    total = take(left, _TOTAL, integer)
    breakdown: dict[str, int] = {}
    for key in list(left):
        try:
            breakdown[key] = integer(left[key])
        except Mismatch:
            continue
        del left[key]
    return Count(total, breakdown, left)


def _revenue(result: object) -> Revenue:
    """Read a number, an object with an amount, a list of such objects, or an object of amounts by currency."""
    if is_array(result):
        parts = read_array(result, _amount)
        rest = {str(index): left for index, (_, left) in enumerate(parts) if left}
        return Revenue(tuple(amount for amount, _ in parts), rest)
    if not is_object(result):
        return Revenue((Money(decimal(result)),))
    if not any(key in result for key in _AMOUNT):
        return Revenue(tuple(read_object(result, lambda currency, amount: Money(decimal(amount), currency))))
    amount, left = _amount(result)
    return Revenue((amount,), left)


def _amount(result: object) -> tuple[Money, dict[str, Any]]:
    left = as_object(result)
    return take_money(left, _AMOUNT), left


def _payment_methods(result: object) -> list[PaymentMethodUsage]:
    """Read a list of objects, or an object of counts by name."""
    if is_object(result):
        return read_object(result, lambda name, count: PaymentMethodUsage(name, integer(count)))
    return read_array(result, _payment_method)


def _performances(result: object) -> list[PlanPerformance]:
    """Read a list of objects, or an object of such objects by plan id."""
    if is_object(result):
        return read_object(result, lambda plan_id, row: _plan_performance({"plan_id": plan_id} | as_object(row)))
    return read_array(result, _plan_performance)


def _money(result: object) -> Money:
    return _amount(result)[0] if is_object(result) else Money(decimal(result))


def _phrase(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    reason = "expected a non-empty string"
    raise Mismatch(reason)


def _take_if(left: dict[str, Any], keys: tuple[str, ...], read: Callable[[Any], T]) -> T | None:
    try:
        return take(left, keys, read)
    except Mismatch:
        return None


def access_token(result: Any) -> AccessToken:
    """Read any result of addMember. Never raises, because the member has been granted.

    A string is a link if it is a URL, and a token otherwise. In an object the keys decide. Anything else is only `raw`.
    """
    if is_object(result):
        left = as_object(result)
        return AccessToken(_take_if(left, _TOKEN, _phrase), _take_if(left, _LINK, _phrase), result, left)
    if not isinstance(result, str) or not result.strip():
        return AccessToken(raw=result)
    return AccessToken(link=result, raw=result) if _URL.match(result) else AccessToken(token=result, raw=result)


def webhook(result: Any, url: str) -> Webhook:
    """Read any result of setting the webhook to `url`. Never raises, because the webhook has been set."""
    left = as_object(result) if is_object(result) else {_SECRET[0]: result}
    return Webhook(url, _take_if(left, _SECRET, secret), left if is_object(result) else {})


# Created once: creating such a type and looking up its hook takes a tenth of the time of a small reply.
_Plans = list[Plan]
_Subscribers = list[Subscriber]
_PaymentMethods = list[PaymentMethodUsage]
_Performances = list[PlanPerformance]

_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    Plan: _plan,
    Subscriber: _subscriber,
    _Subscribers: _subscribers,
    AccessToken: access_token,
    Count: _count,
    Money: _money,
    Revenue: _revenue,
    PaymentMethodUsage: _payment_method,
    _PaymentMethods: _payment_methods,
    PlanPerformance: _plan_performance,
    _Performances: _performances,
}


@cache
def _converter(*, detailed: bool) -> Converter:
    return new_converter(_READERS, detailed=detailed)


def structure(result: Any, into: type[T]) -> T:
    """Return decoded JSON as `into`, or raise ShapeError and nothing else.

    `into` may be Any, which returns the result unchanged, a model of this package, an attrs class or a dataclass, or a
    type composed of these, scalars and containers.
    """
    try:
        return _converter(detailed=False).structure(result, into)
    except Exception:  # noqa: BLE001, S110 - classes of the caller may raise anything; explained below
        pass
    raise _shape_error(result, into)


def _shape_error(result: object, into: Any) -> ShapeError:
    """Structure again, slowly, to find the failure. Returned, so that its traceback has no frame with the result."""
    try:
        _converter(detailed=True).structure(result, into)
    except Exception as failure:  # noqa: BLE001 - as above
        mismatch = explain(failure)
    else:
        mismatch = Mismatch("it failed only once")
    return ShapeError(printable(str(mismatch), _LONGEST_REASON))


def in_slices(convert: Callable[[Any], T], result: Any, pause: Callable[[], object]) -> T:
    """Return `convert(result)`; convert a long array in slices, and call `pause` between them.

    If `convert` does not return a list for a slice, it gets the whole array.
    """
    if not is_array(result) or len(result) <= _ROWS_AT_ONCE:
        return convert(result)
    made: Any = []
    for start in range(0, len(result), _ROWS_AT_ONCE):
        pause()
        some: Any
        try:
            some = convert(result[start : start + _ROWS_AT_ONCE])
        except ShapeError as error:
            some = ShapeError(_FIRST_STEP.sub(lambda step: f"$[{int(step[1]) + start}]", str(error)))  # noqa: B023
        if isinstance(some, ShapeError):
            raise some
        if type(some) is not list:
            return convert(result)
        made += some
    return made  # type: ignore[no-any-return]


def plans(result: Any) -> list[Plan]:
    """Read the result of getPlans."""
    return structure(result, _Plans)


def subscribers(result: Any) -> list[Subscriber]:
    """Read the result of getSubscribers: a list, one object or nothing, always returned as a list."""
    return structure(result, _Subscribers)


def count(result: Any) -> Count:
    """Read the result of countOrders or countUsers."""
    return structure(result, Count)


def revenue(result: Any) -> Revenue:
    """Read the result of getRevenue."""
    return structure(result, Revenue)


def payment_methods(result: Any) -> list[PaymentMethodUsage]:
    """Read the result of mostPopularPaymentMethods."""
    return structure(result, _PaymentMethods)


def performance(result: Any) -> list[PlanPerformance]:
    """Read the result of plansPerformance."""
    return structure(result, _Performances)
