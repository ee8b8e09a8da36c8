"""Read a list page by page. The service promises no order, and rows come and go while we read (documented / ours)."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from attrs import frozen

T = TypeVar("T")
_ROUNDS: Final = 3
_logger: Final = logging.getLogger("tgmembership_async")


@frozen
class Page(Generic[T]):
    """The rows from an offset on, and how many rows there are in all; None if the service does not say."""

    rows: Sequence[T]
    total: int | None


async def all_rows(
    what: str, fetch: Callable[[int], Awaitable[Page[T]]], identity: Callable[[T], Hashable]
) -> AsyncGenerator[T]:
    """Yield each row once, by its identity; `fetch` returns the page at an offset.

    A list that shrinks while it is read may hide rows: they move to a page that was read before. Then the list is read
    again, twice at most, and only rows not yielded before are yielded. If rows are still missing, a WARNING is logged.
    """
    seen: set[Hashable] = set()
    total: int | None = None
    for _ in range(_ROUNDS):
        offset, total, has_shrunk = 0, None, False
        while total is None or offset < total:
            page = await fetch(offset)
            has_shrunk = has_shrunk or (total is not None and page.total is not None and page.total < total)
            total = page.total
            fresh = {identity(row): row for row in page.rows}
            news = [(key, row) for key, row in fresh.items() if key not in seen]
            seen.update(fresh)
            for _, row in news:
                yield row
            offset += len(page.rows)
            if not page.rows or (not news and offset >= len(seen)):
                break
        missing = (total or 0) - len(seen)
        if not has_shrunk and missing <= 0:
            return
    _logger.warning(
        "the list of %s changed while it was read: %d of %d rows came, and some may be missing",
        what,
        len(seen),
        total or 0,
    )
