"""The converter from decoded JSON to any annotated type: lenient with scalars, strict with arrays and objects."""

import dataclasses
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import ClassValidationError, IterableValidationError, IterableValidationNote
from cattrs.strategies import configure_union_passthrough

from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring import scalars
from tgmembership_async.protocol.structuring.objects import as_object, is_array, is_object
from tgmembership_async.protocol.structuring.scalars import Mismatch, wrong_kind
from tgmembership_async.values.duration import Duration
from tgmembership_async.values.secret import Secret

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

SCALARS: Final[Mapping[type, Callable[[Any], Any]]] = {
    bool: scalars.boolean,
    int: scalars.integer,
    float: lambda value: float(scalars.decimal(value)),
    Decimal: scalars.decimal,
    str: scalars.text,
    datetime: scalars.timestamp,
    date: scalars.day,
    Duration: scalars.duration,
    Secret: scalars.secret,
    bytes: scalars.no_bytes,
}
_ARRAYS: Final[Mapping[Any, Callable[[list[Any]], Any]]] = {
    list: list,
    abc.Iterable: list,
    abc.Collection: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    tuple: tuple,
    set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
    abc.Set: frozenset,
}
_OBJECTS: Final = frozenset({dict, abc.Mapping, abc.MutableMapping})
_PATH_STEP: Final = 40


def new_converter(readers: Mapping[Any, Callable[[Any], Any]], *, detailed: bool) -> Converter:
    """Return a converter for scalars and the types in `readers`; `detailed` records error paths and is slow."""
    converter = Converter(detailed_validation=detailed)
    configure_union_passthrough(str | int | bool | Decimal | None, converter)
    converter.register_structure_hook_factory(_is_class, _class_hook)
    converter.register_structure_hook_factory(_is_optional, _optional_hook)
    converter.register_structure_hook_factory(_is_object, _object_hook)
    converter.register_structure_hook_factory(_is_array, _array_hook)
    converter.register_structure_hook_factory(lambda into: into in readers, _reader_hook(readers))
    for kind, read in SCALARS.items():
        converter.register_structure_hook(kind, _scalar_hook(kind, read))
    return converter


def _reader_hook(readers: Mapping[Any, Callable[[Any], Any]]) -> Callable[[Any], Hook]:
    def hook(into: Any) -> Hook:
        read = readers[into]
        return lambda value, _: read(value)

    return hook


def _scalar_hook(kind: type, read: Callable[[Any], Any]) -> Hook:
    """Return a hook for `kind` and its subclasses, such as an IntEnum of the caller."""

    def structure(value: Any, into: Any) -> Any:
        return read(value) if into is kind else into(read(value))

    return structure


def _inner(kind: Any, converter: Converter) -> Hook:
    try:
        return converter.get_structure_hook(kind)
    except RecursionError:  # a recursive class: look up its hook when it is needed
        return converter.structure


def _is_class(into: Any) -> bool:
    return isinstance(into, type) and (attrs.has(into) or dataclasses.is_dataclass(into))


def _class_hook(into: Any, converter: Converter) -> Hook:
    structure = converter.gen_structure_attrs_fromdict(into)
    return lambda value, _: structure(as_object(value), into)


def _is_optional(into: Any) -> bool:
    kinds = set(get_args(into))
    return get_origin(into) in (Union, UnionType) and len(kinds - {NoneType}) == 1


def _optional_hook(into: Any, converter: Converter) -> Hook:
    kind = next(kind for kind in get_args(into) if kind is not NoneType)
    structure = _inner(kind, converter)
    return lambda value, _: None if value is None else structure(value, kind)


def _is_array(into: Any) -> bool:
    return (get_origin(into) or into) in _ARRAYS and get_args(into)[1:] in ((), (...,))


def _maker(into: Any) -> Callable[[list[Any]], Any]:
    return _ARRAYS[get_origin(into) or into]


def _array_hook(into: Any, converter: Converter) -> Hook:
    make = _maker(into)
    kind = (*get_args(into), Any)[0]
    structure = _inner(kind, converter)

    def hook(value: Any, _: Any) -> Any:
        return make(read_array(value, lambda item: structure(item, kind)))

    return hook


def _is_object(into: Any) -> bool:
    return (get_origin(into) or into) in _OBJECTS


def _object_hook(into: Any, converter: Converter) -> Hook:
    key_kind, kind = get_args(into) or (Any, Any)
    name, structure = _inner(key_kind, converter), _inner(kind, converter)
    return lambda value, _: dict(read_object(value, lambda key, item: (name(key, key_kind), structure(item, kind))))


def explain(failure: Exception) -> Mismatch:
    """Return where and why structuring failed, without values."""
    path = ""
    while isinstance(failure, ClassValidationError | IterableValidationError):
        noted, bare = failure.group_exceptions()
        if noted:
            failure, note = noted[0]
            path += _step(note.index if isinstance(note, IterableValidationNote) else note.name)
        else:
            failure = bare[0]
    if isinstance(failure, Mismatch):
        return failure.within(path)
    if isinstance(failure, RecursionError):
        return Mismatch("nested too deeply", path)
    return Mismatch("not there" if isinstance(failure, KeyError) else type(failure).__name__, path)


def read_array(value: object, read: Callable[[Any], T]) -> list[T]:
    """Read each item of an array, or raise Mismatch with the path of the invalid item."""
    if not is_array(value):
        raise wrong_kind(value, "an array")
    items: list[T] = []
    try:
        for item in value:
            items.append(read(item))  # noqa: PERF401 - its length is the index of the failure
    except Exception as failure:  # noqa: BLE001 - classes of the caller raise what they like
        raise explain(failure).within(_step(len(items))) from None
    return items


def read_object(value: object, read: Callable[[str, Any], T]) -> list[T]:
    """Read each key with its value, or raise Mismatch with the path of the invalid one."""
    if not is_object(value):
        raise wrong_kind(value, "an object")
    items: list[T] = []
    key = ""
    try:
        for key, item in value.items():
            items.append(read(key, item))
    except Exception as failure:  # noqa: BLE001 - classes of the caller raise what they like
        raise explain(failure).within(_step(key)) from None
    return items


def _step(name: object) -> str:
    if isinstance(name, int):
        return f"[{name}]"
    return f".{name}" if isinstance(name, str) and name.isidentifier() else f"[{printable(repr(name), _PATH_STEP)}]"
