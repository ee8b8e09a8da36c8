"""A read-only mapping that pickles; `types.MappingProxyType` does not."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, final


@final
class FrozenDict(Mapping[str, Any]):
    """A shallow copy of a mapping that cannot be changed; equal to any mapping with equal items."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        self._items = dict(items) if items else {}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (self._items,)


EMPTY: Final = FrozenDict()


def freeze(items: Mapping[str, Any]) -> FrozenDict:
    """Return `items` as a FrozenDict, copied unless it is one."""
    return items if isinstance(items, FrozenDict) else FrozenDict(items)
