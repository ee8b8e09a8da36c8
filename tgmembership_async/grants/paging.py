"""Rows a page at a time: an async iterator that holds nothing open between two pages."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Self

from tgmembership_async.grants.model import Grant

Page = tuple[Iterable[Grant], int | None]
"""Rows, and what to ask the next page with; None after the last."""


class Paged(AsyncIterator[Grant]):
    """The rows of all pages, each asked for when the one before it is used up; the first one with 0.

    Not an async generator: one that is left half read has to be closed, and this need not be.
    """

    def __init__(self, page: Callable[[int], Awaitable[Page]]) -> None:
        self._page = page
        self._rows: deque[Grant] = deque()
        self._next: int | None = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Grant:
        while not self._rows:
            if self._next is None:
                raise StopAsyncIteration
            rows, self._next = await self._page(self._next)
            self._rows.extend(rows)
        return self._rows.popleft()
