"""Pages of rows: an async iterator that keeps no cursor or connection open between two pages."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from datetime import datetime
from typing import Protocol, Self, TypeVar

from tgmembership_async.grants import transitions
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus

T = TypeVar("T")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)

Page = tuple[Iterable[Grant], int | None]
"""Rows, and the position from which to ask for the next page; None after the last."""


class Paged(AsyncIterator[Grant]):
    """The rows of all pages; a page is requested when the one before is used up, the first with position 0.

    Not an async generator: a generator that is left half read has to be closed, and this iterator need not be.
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

    async def aclose(self) -> None:
        """Do nothing; for callers that close each iterator."""


class Selected(AsyncIterator[T]):
    """The results of `select` for each row, without None. Closing it closes the rows, if they can be closed."""

    def __init__(self, rows: AsyncIterator[Grant], select: Callable[[Grant], T | None]) -> None:
        self._rows = rows
        self._select = select

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            selected = self._select(await anext(self._rows))
            if selected is not None:
                return selected

    async def aclose(self) -> None:
        """Close the rows, which are an async generator if the ledger is one of a user's own."""
        close = getattr(self._rows, "aclose", None)
        if close is not None:
            await close()


def planned_requests(ledger: Ledger) -> Selected[GrantRequest]:
    """Return the requests of the planned rows of a ledger."""
    return Selected(ledger.grants([GrantStatus.PLANNED]), transitions.request_of)


class Reader(Protocol[C_co]):
    """Runs a job with a connection of its own kind, and returns the job's result."""

    def __call__(self, job: Callable[[C_co], T], /) -> Awaitable[T]:
        """Do it."""
        ...


def by_id(
    read: Reader[C],
    bounds: Callable[[C], tuple[int, int]],
    page: Callable[[C, int, int, Collection[GrantStatus], datetime | None], Page],
    status: Collection[GrantStatus] | None,
    since: datetime | None,
) -> Paged:
    """Return the rows of a database in the order of their ids, between the bounds at the start of the iteration."""
    states = frozenset(GrantStatus if status is None else status)
    earliest = None if since is None else transitions.check_aware("since", since)
    last: int | None = None

    async def next_page(after: int) -> Page:
        nonlocal last
        if last is None:
            after, until = await read(bounds)
            last = until
        else:
            until = last
        return await read(lambda connection: page(connection, after, until, states, earliest))

    return Paged(next_page)
