"""Describe the shape of a reply without its values: its fields, their types, missing and unknown fields. Pure.

No value is included, and no key that may be a value: a key that does not look like a field's name is replaced.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from tgmembership_async.protocol.structuring import scalars
from tgmembership_async.protocol.structuring.objects import is_array, is_object
from tgmembership_async.protocol.structuring.results import BY_KEY, EXPECTED, Alternatives

_NAME: Final = re.compile(r"(?=.{1,40}$)[A-Za-z]+(?:[_-]?[A-Za-z]+)*(?:_?[0-9]{1,3})?")
_NAMELESS: Final = "(key that is not a field name)"
_KEY: Final = "(the keys)"
_URL: Final = re.compile(r"(?:https?|tg)://", re.IGNORECASE)
_TEXTS: Final = (
    ("whole number in a string", scalars.integer),
    ("decimal number in a string", scalars.decimal),
    ("date in a string", scalars.timestamp),
)


@frozen
class Shape:
    """`text` in words; `fields` with the types of their values; `missing` and `new` relative to those expected."""

    text: str
    fields: Mapping[str, str] = field(factory=dict[str, str])
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def kind_of(value: object) -> str:
    """Return the type of a value in words."""
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
    except scalars.Mismatch:
        return False
    return True


def shape_of(method: str, result: Any, expected: Mapping[str, Alternatives] = EXPECTED) -> Shape:
    """Return the shape of a result, compared to the fields that this package expects of the method."""
    known = expected.get(method, ())
    if is_array(result) and result:
        if all(map(is_object, result)):
            return _compared("array of objects", result, known)
        return Shape(f"array of: {_kinds(result)}")
    if not is_object(result) or not result:
        return Shape(kind_of(result))
    if method not in BY_KEY or any(key in result for keys in known for key in keys):
        return _compared("object", [result], known)
    values = list(result.values())
    keys = {_KEY: _kinds(result)}
    if all(map(is_object, values)):
        shape = _compared("object of objects by key", values, known[1:])  # the key replaces the first field
        return Shape(shape.text, keys | dict(shape.fields), shape.missing, shape.new)
    return Shape("object by key", keys | {"(the values)": _kinds(values)})


def _compared(text: str, rows: Sequence[Mapping[str, Any]], known: Iterable[Sequence[str]]) -> Shape:
    alternatives = list(known)
    names = list(dict.fromkeys(name for row in rows for name in row))
    fields = {field_name(name): _kinds_of_field(rows, name) for name in names}
    expected = {key for keys in alternatives for key in keys}
    missing = tuple(" or ".join(keys) for keys in alternatives if not any(key in names for key in keys))
    new = tuple(dict.fromkeys(field_name(name) for name in names if name not in expected))
    return Shape(text, fields, missing, new)


def _kinds_of_field(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    present = [row[name] for row in rows if name in row]
    return _kinds(present) + ("" if len(present) == len(rows) else ", not always present")


def _kinds(values: Iterable[object]) -> str:
    return " or ".join(dict.fromkeys(map(kind_of, values)))


def field_name(name: str) -> str:
    """Return the name of a field, or a placeholder if it does not look like a name and may be a value."""
    return name if _NAME.fullmatch(name) else _NAMELESS
