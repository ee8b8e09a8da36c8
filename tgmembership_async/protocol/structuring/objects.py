"""Read a JSON object as a model: which key holds which field, and which keys are left over."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeGuard, TypeVar

import attrs
from attrs import frozen

from tgmembership_async.protocol.structuring.scalars import Mismatch, decimal, text, wrong_kind
from tgmembership_async.values.money import Money

T = TypeVar("T")
Reader = Callable[[Any], T]

CURRENCY: Final = "currency"


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a value is a JSON array."""
    return isinstance(value, list)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value is a JSON object."""
    return isinstance(value, dict)


def as_object(value: object) -> dict[str, Any]:
    """Return a copy of a JSON object, to take fields from."""
    if is_object(value):
        return dict(value)
    raise wrong_kind(value, "an object")


def take(left: dict[str, Any], keys: Sequence[str], read: Reader[T]) -> T:
    """Remove and return the value of the first of `keys` that `read` accepts; null counts as absent."""
    value = take_if_there(left, keys, read)
    if value is None:
        raise _absent(keys)
    return value


def _absent(keys: Sequence[str]) -> Mismatch:
    return Mismatch(f"no {' or '.join(keys)}")


def take_if_there(left: dict[str, Any], keys: Sequence[str], read: Reader[T]) -> T | None:
    """Do as `take`, but return None if all keys are absent: raising takes ten times as long."""
    mismatch: Mismatch | None = None
    for key in keys:
        value = left.pop(key, None)
        if value is None:
            continue
        try:
            return read(value)
        except Mismatch as found:
            left[key] = value
            mismatch = mismatch or found.within(f".{key}")
    if mismatch is not None:
        raise mismatch
    return None


def take_money(left: dict[str, Any], keys: Sequence[str]) -> Money:
    """Remove an amount and its currency from `left`, and return them."""
    money = _take_money_if_there(left, keys, decimal)
    if money is None:
        raise _absent(keys)
    return money


def _take_money_if_there(left: dict[str, Any], keys: Sequence[str], read: Reader[Decimal]) -> Money | None:
    currency = left.get(CURRENCY)
    if currency is not None and not isinstance(currency, str):
        currency = take({CURRENCY: currency}, (CURRENCY,), text)
    amount = take_if_there(left, keys, read)
    if amount is None:
        return None
    left.pop(CURRENCY, None)
    return Money(amount, currency or "")


@frozen
class Column:
    """The source of a model's field: its possible keys, the preferred one first, and its reader.

    An optional field with an invalid value is None, and the original is left over.
    """

    field: str
    keys: tuple[str, ...]
    read: Reader[Any]
    required: bool = False
    _take: Callable[..., Any] = attrs.field(default=take_if_there, init=False, repr=False)

    def take(self, left: dict[str, Any]) -> Any:
        """Remove the field's value from a row, and return it."""
        try:
            value = self._take(left, self.keys, self.read)
        except Mismatch:
            if self.required:
                raise
            return None
        if value is None and self.required:
            raise _absent(self.keys)
        return value


@frozen
class MoneyColumn(Column):
    """A column with an amount of money; the currency is another key of the row."""

    read: Reader[Any] = decimal
    _take: Callable[..., Any] = attrs.field(default=_take_money_if_there, init=False, repr=False)


def row_reader(model: Callable[..., T], columns: Sequence[Column]) -> Reader[T]:
    """Return a reader of one object as one model, which takes the fields by name and the rest as `extra`."""

    def read(row: object) -> T:
        left = as_object(row)
        fields = {column.field: column.take(left) for column in columns}
        return model(**fields, extra=left)

    return read
