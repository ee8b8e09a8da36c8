"""One object of a reply to one model: which key holds which field, and what is left over."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeGuard, TypeVar

from attrs import frozen

from tgmembership_async.protocol.structuring.scalars import Misfit, decimal, text, unlike
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
    """Return a copy of a JSON object to take fields from."""
    if is_object(value):
        return dict(value)
    raise unlike(value, "an object")


def take(left: dict[str, Any], keys: Sequence[str], read: Reader[T]) -> T:
    """Take out of `left` what stands under the first of `keys` that reads; null counts as absent."""
    misfit: Misfit | None = None
    for key in keys:
        value = left.pop(key, None)
        if value is None:
            continue
        try:
            return read(value)
        except Misfit as found:
            left[key] = value
            misfit = misfit or found.within(f".{key}")
    raise misfit or Misfit(f"no {' or '.join(keys)}")


def take_money(left: dict[str, Any], keys: Sequence[str]) -> Money:
    """Take an amount and the currency beside it out of `left`."""
    currency = left.get(CURRENCY)
    if currency is not None:
        currency = take({CURRENCY: currency}, (CURRENCY,), text)
    amount = take(left, keys, decimal)
    left.pop(CURRENCY, None)
    return Money(amount, currency or "")


@frozen
class Column:
    """Where a field of a model comes from: the keys it may stand under, the preferred one first.

    An optional field that does not read is None, and its original is left over.
    """

    field: str
    keys: tuple[str, ...]
    read: Reader[Any]
    required: bool = False

    def take(self, left: dict[str, Any]) -> Any:
        """Take the field's value out of what is left of a row."""
        try:
            return self._take(left)
        except Misfit:
            if self.required:
                raise
            return None

    def _take(self, left: dict[str, Any]) -> Any:
        return take(left, self.keys, self.read)


@frozen
class MoneyColumn(Column):
    """An amount of money, whose currency stands beside it."""

    read: Reader[Any] = decimal

    def _take(self, left: dict[str, Any]) -> Money:
        return take_money(left, self.keys)


def row_reader(model: Callable[..., T], columns: Sequence[Column]) -> Reader[T]:
    """Return what reads one object to one model; the model takes the fields by name and the rest as `extra`."""

    def read(row: object) -> T:
        left = as_object(row)
        fields = {column.field: column.take(left) for column in columns}
        return model(**fields, extra=left)

    return read
