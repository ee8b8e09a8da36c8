"""Read a long array of objects column by column, in C loops if all values of a column have one type.

This takes a sixth of the time of reading row by row. Any unexpected value falls back to that, with the same result.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from operator import attrgetter, itemgetter
from types import NoneType
from typing import Any, Final, TypeVar

from tgmembership_async.protocol.structuring.converter import read_array
from tgmembership_async.protocol.structuring.objects import Column, Reader, row_reader
from tgmembership_async.protocol.structuring.scalars import DIGITS, integer, timestamp, utc
from tgmembership_async.values.frozen import EMPTY, FrozenDict, build, freeze_all

T = TypeVar("T")

_FEW: Final = 2  # up to so many rows, reading by columns takes longer
_FIFTH: Final = itemgetter(4)
_ZONE: Final = attrgetter("tzinfo")


def rows_reader(model: type[T], columns: Sequence[Column]) -> Reader[list[T]]:
    """Return a reader of an array of objects, for a model whose fields are all optional and have one key each."""
    read_row = row_reader(model, columns)
    keys = frozenset(column.keys[0] for column in columns)

    def by_columns(rows: list[dict[str, Any]]) -> list[T]:
        fields: dict[str, Iterable[Any]] = {"extra": _extras(rows, keys)}
        for column in columns:
            fields[column.field] = _read(list(map(dict[str, Any].get, rows, repeat(column.keys[0]))), column.read)
        return build(model, len(rows), fields)

    def read(result: Any) -> list[T]:
        if len(result) > _FEW:
            try:
                return by_columns(result)
            except (TypeError, ValueError, IndexError, OverflowError):
                pass
        return read_array(result, read_row)

    return read


def _extras(rows: list[dict[str, Any]], keys: frozenset[str]) -> Iterable[FrozenDict]:
    if keys.issuperset(set[str]().union(*rows)):
        return repeat(EMPTY)
    left = list(map(dict, rows))
    for key in keys:
        deque(map(dict[str, Any].pop, left, repeat(key), repeat(None)), maxlen=0)
    return freeze_all(left)


def _read(values: list[Any], read: Reader[Any]) -> list[Any]:
    kinds = set(map(type, values))
    if NoneType in kinds:
        present = iter(_read([value for value in values if value is not None], read))
        return [None if value is None else next(present) for value in values]
    whole = _WHOLE.get((read, *kinds))
    return whole(values) if whole else list(map(read, values))


def _numbers(values: list[Any]) -> list[int]:
    array("q", values)  # raises OverflowError beyond 64 bits, in half the time of min() and max()
    return values


def _digits(values: list[Any]) -> list[int]:
    plain = "".join(values).encode().isdigit() and max(map(len, values)) <= DIGITS
    return list(map(int if plain else integer, values))


def _texts(values: list[Any]) -> list[datetime]:
    if set(map(_FIFTH, values)) != {"-"}:  # perhaps unix seconds
        return list(map(timestamp, values))
    times = list(map(datetime.fromisoformat, values))
    return times if set(map(_ZONE, times)) == {UTC} else list(map(utc, times))


_WHOLE: Final[Mapping[tuple[Any, ...], Callable[[list[Any]], list[Any]]]] = {
    (integer, int): _numbers,
    (integer, str): _digits,
    (timestamp, str): _texts,
}
"""Readers of a whole column, by the reader of one value and the type of all values."""
