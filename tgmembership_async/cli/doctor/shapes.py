"""What a reply looks like, without what it says: its fields, their kinds, what is missing and what is new. Pure.

No value gets through, and no key that may be one: keys that do not look like the name of a field have none.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from tgmembership_async.protocol.structuring import scalars
from tgmembership_async.protocol.structuring.objects import is_array, is_object
from tgmembership_async.protocol.structuring.results import BY_KEY, EXPECTED

_NAME: Final = re.compile(r"(?=.{1,40}$)[A-Za-z]+(?:[_-]?[A-Za-z]+)*(?:_?[0-9]{1,3})?")
_NAMELESS: Final = "(no name of a field)"
_KEY: Final = "(the keys)"
_URL: Final = re.compile(r"(?:https?|tg)://", re.IGNORECASE)
_TEXTS: Final = (
    ("whole number in a string", scalars.integer),
    ("decimal number in a string", scalars.decimal),
    ("date in a string", scalars.moment),
)


@frozen
class Shape:
    """`told` in words; `fields` by name with the kinds of their values; `missing` and `new` against what is known."""

    told: str
    fields: Mapping[str, str] = field(factory=dict[str, str])
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def kind_of(value: object) -> str:
    """Return what kind of value this is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if is_array(value) or is_object(value):
        return ("" if value else "empty ") + ("array" if is_array(value) else "object")
    if not isinstance(value, str):
        return "whole number" if isinstance(value, int) else "decimal number"
    if _URL.match(value):
        return "URL"
    return next((kind for kind, read in _TEXTS if _reads(read, value)), "string" if value else "empty string")


def _reads(read: Any, value: object) -> bool:
    try:
        read(value)
    except scalars.Misfit:
        return False
    return True


def shape_of(method: str, result: Any) -> Shape:
    """Return the shape of a read's result, held against what this package expects of the method."""
    known = EXPECTED.get(method, ())
    if is_array(result) and result:
        if all(map(is_object, result)):
            return _judged("array of objects", result, known)
        return Shape(f"array of: {_kinds(result)}")
    if not is_object(result) or not result:
        return Shape(kind_of(result))
    if method not in BY_KEY or any(key in result for keys in known for key in keys):
        return _judged("object", [result], known)
    values = list(result.values())
    keys = {_KEY: _kinds(result)}
    if all(map(is_object, values)):
        shape = _judged("object of objects by key", values, known[1:])  # the key stands for the first field
        return Shape(shape.told, keys | dict(shape.fields), shape.missing, shape.new)
    return Shape("object by key", keys | {"(the values)": _kinds(values)})


def _judged(told: str, rows: Sequence[Mapping[str, Any]], known: Iterable[Sequence[str]]) -> Shape:
    alternatives = list(known)
    names = list(dict.fromkeys(name for row in rows for name in row))
    fields = {field_name(name): _kinds_of_field(rows, name) for name in names}
    expected = {key for keys in alternatives for key in keys}
    missing = tuple(" or ".join(keys) for keys in alternatives if not any(key in names for key in keys))
    new = tuple(dict.fromkeys(field_name(name) for name in names if name not in expected))
    return Shape(told, fields, missing, new)


def _kinds_of_field(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    there = [row[name] for row in rows if name in row]
    return _kinds(there) + ("" if len(there) == len(rows) else ", not always there")


def _kinds(values: Iterable[object]) -> str:
    return " or ".join(dict.fromkeys(map(kind_of, values)))


def field_name(name: str) -> str:
    """Return the name of a field, or what stands for one that does not look like it, and may be a value."""
    return name if _NAME.fullmatch(name) else _NAMELESS
