"""Bulk grants: a run grants many requests concurrently and yields the rows as they complete, in constant memory."""

from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from anyio import CancelScope, Event, Lock, Semaphore, create_task_group, get_cancelled_exc_class
from attrs import evolve, frozen, mutable

from tgmembership_async.errors import GrantHeld, RefConflict, UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.exchange import HandOver, Shared, rejects_credentials
from tgmembership_async.grants.job import Job
from tgmembership_async.grants.model import SUCCEEDED, Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.paging import Selected
from tgmembership_async.grants.recording import Recorder
from tgmembership_async.protocol.retry import COST_TRANSIENT

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from tgmembership_async.project.client import Project
    from tgmembership_async.session import Session

Requests = Iterable[GrantRequest] | AsyncIterable[GrantRequest]
LookUp = Callable[[Collection[str]], Awaitable[Mapping[str, Grant]]]
GrantOne = Callable[[GrantRequest, Callable[[], bool], HandOver], Awaitable[tuple[Grant, bool] | None]]
"""Grants one request, or hands its answer over; the other function tells whether the run goes on."""


class StopReason(StrEnum):
    """Why a run ended before its input did. Running it again resumes it."""

    CREDENTIALS = "the service refused the account with 401"
    BUDGET = "the retry budget is empty: the service, or the way to it, is failing"
    UNKNOWN = "too many unknown outcomes in a row"


EVERY_REASON: Final = frozenset(StopReason)
_STARTED_IN_ONE_TURN: Final = 16
_MOST_RECORDING: Final = 64  # workers above `concurrency`: more cost more memory than they save time
_LONGEST_PAGE: Final = 250  # requests: they are read without letting other tasks run
_UNUSED: Final = (
    "a run was thrown away unused, so nothing was granted: write `await granter.run_planned()`, or "
    "`async with granter.provision(...) as run:` and iterate over the run"
)


def check_concurrency(concurrency: object) -> None:
    """Raise UsageError unless `concurrency` is a number of tasks."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        msg = f"concurrency must be an int of at least 1, not {concurrency!r:.80}"
        raise UsageError(msg)


@frozen
class Summary:
    """The result of a run. `duplicates` counts requests whose ref was carried out earlier in this run, or concurrently.

    `already` counts rows granted by an earlier run, `conflicts` requests whose ref belongs to another plan or member.
    """

    granted: int = 0
    already: int = 0
    refused: int = 0
    unknown: int = 0
    planned: int = 0
    duplicates: int = 0
    conflicts: int = 0
    stopped: StopReason | None = None


class Run(Job[Summary]):
    """`async with run: async for grant in run:` yields each row as it completes; `await run` returns only the Summary.

    `asyncio.create_task(run)` and FastAPI's `background.add_task(run)` await it too. Nothing is granted before; a run
    that is thrown away unused gives a ResourceWarning.

    No single row raises: refused and held rows are yielded as Grants. Leaving a run early, by `break`, an exception or
    Ctrl-C, finishes the grants in flight and starts no others. While rows turn out to be granted already, up to 250
    requests are read ahead, unless they come from an async iterable.
    """

    def __init__(
        self,
        requests: Requests,
        grant_one: GrantOne,
        look_up: LookUp,
        session: "Session | Project",
        *,
        concurrency: int,
        stop_on: Collection[StopReason],
        settles_later: bool = False,
    ) -> None:
        check_concurrency(concurrency)
        self.stopped: StopReason | None = None
        self._source = _Source(requests)
        self._ahead: deque[GrantRequest] = deque()
        self._turn = Lock(fast_acquire=True)
        self._page = 1
        self._look_up = look_up
        self._grant_one = grant_one
        self._settles_later = settles_later
        self._workers = concurrency if settles_later else concurrency + min(concurrency, _MOST_RECORDING)
        self._places = Semaphore(concurrency, fast_acquire=True)
        self._stop_on = frozenset(map(StopReason, stop_on))
        self._session = session
        self._unknown_limit = max(2 * concurrency, 20)
        self._unknown_in_a_row = 0
        self._began = datetime.now(UTC)
        self._counts: Counter[str] = Counter()
        self._done: deque[Grant] = deque()
        self._room = concurrency
        self._news = _Signal()
        self._taken = _Signal()
        self._working = 0
        self._over = False
        self._failure: Exception | None = None
        self._group: TaskGroup | None = None
        self._recorder: Recorder
        self._unused = _UNUSED

    @property
    def summary(self) -> Summary:
        """Return the result of the run so far."""
        return Summary(**self._counts, stopped=self.stopped)

    @property
    def is_over(self) -> bool:
        """Tell whether no more grants are started."""
        return self._over

    def _goes_on(self) -> bool:
        return not self._over

    def stop(self) -> None:
        """Start no more grants; those in flight are still finished and yielded."""
        self._over = True
        self._taken.set()

    async def _result(self) -> Summary:
        async with self:
            async for _ in self:
                pass
        return self.summary

    async def __aenter__(self) -> Self:
        if self._group is not None:
            msg = "a run can be entered only once: call provision() again, it resumes where it stopped"
            raise UsageError(msg)
        self._unused = None
        self._group = create_task_group()
        await self._group.__aenter__()
        self._recorder = Recorder(self._recorded)  # not before: a cycle would delay the warning of an unused run
        self._working = self._workers + 1
        self._group.start_soon(self._record)
        self._group.start_soon(self._start, self._workers)
        return self

    async def _start(self, workers: int) -> None:
        """Start some workers, and the others in the next turn of the event loop, so that other tasks run in between."""
        assert self._group is not None  # noqa: S101 - entered
        for _ in range(min(workers, _STARTED_IN_ONE_TURN)):
            self._group.start_soon(self._work)
        if workers > _STARTED_IN_ONE_TURN:
            self._group.start_soon(self._start, workers - _STARTED_IN_ONE_TURN)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        assert self._group is not None  # noqa: S101 - entered
        try:
            with CancelScope(shield=True):
                await self._session.end_calls()
            # Grants in flight are shielded; this cancels the workers that wait for the input.
            self._group.cancel_scope.cancel()
        finally:
            # An exception of the body must not become a group; the group only handles a cancellation.
            cancelled = isinstance(error, get_cancelled_exc_class())
            try:
                await self._group.__aexit__(*((kind, error, traceback) if cancelled else (None, None, None)))
            finally:
                with CancelScope(shield=True):
                    await self._source.aclose()

    def __aiter__(self) -> AsyncIterator[Grant]:
        if self._group is None:
            msg = "enter a run first: `async with granter.provision(...) as run:`"
            raise UsageError(msg)
        return self

    async def __anext__(self) -> Grant:
        while not self._done:
            if self._working == 0:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                raise StopAsyncIteration
            await self._news.wait()
        grant = self._done.popleft()
        self._taken.set()
        return grant

    async def _work(self) -> None:
        # A cancelled run waits until the answer is recorded. One scope for all grants: one for each costs as much as
        # the rest of this loop.
        place = _Place(self._places)
        hand_over = self._recorder.take if self._settles_later else place.hand_over
        with CancelScope(shield=True) as scope:
            try:
                while True:
                    await place.take()
                    request = None if self._over else await self._next(scope)
                    if request is None:
                        break
                    done = await self._grant_one(request, self._goes_on, hand_over)
                    if done is None:
                        self._page = 1
                    else:
                        self._turn_pages(larger=_is_resumed(*done))
                        self._yield(*done)
                    if len(self._done) >= self._room:
                        await self._make_room(scope)
            except Exception as error:  # noqa: BLE001 - raised where the rows are awaited, and never as a group
                self._fail(error)
            finally:
                place.leave()
                self._working -= 1
                if self._working == 1:
                    self._recorder.end()

    async def _record(self) -> None:
        try:
            await self._recorder.work()
        finally:
            self._working -= 1
            self._news.set()

    async def _next(self, scope: CancelScope) -> GrantRequest | None:
        """Return the next request to carry out, or None.

        A run that resumes meets many rows that are granted already: after some of these, further requests are looked
        up in pages, so that no worker is needed for each. Requests that need waiting are not read ahead.
        """
        if self._page == 1 and not self._ahead:
            return await self._source.next(scope) if self._source.is_async else self._source.first()
        async with self._turn:
            while not self._ahead:
                page = [] if self._over else self._source.page(self._page)
                if not page:
                    return None
                rows = await self._look_up([request.ref for request in page])
                for request in page:
                    row = rows.get(request.ref)
                    if row is not None and row.status in SUCCEEDED and transitions.agree(row, request):
                        self._yield(row, False)
                    else:
                        self._ahead.append(request)
                self._turn_pages(larger=not self._ahead)
                if len(self._done) >= self._room:
                    await self._make_room(scope)
            return None if self._over else self._ahead.popleft()

    def _turn_pages(self, *, larger: bool) -> None:
        self._page = min(2 * self._page, self._source.longest_page) if larger else 1

    def _recorded(self, shared: Shared) -> None:
        try:
            grant = shared.result()
        except Exception as error:  # noqa: BLE001 - as in `_work`
            self._fail(error)
        else:
            self._yield(grant, shared.fresh)

    def _yield(self, grant: Grant, fresh: bool) -> None:  # noqa: FBT001 - what `GrantOne` returns
        self._note(grant, fresh=fresh)
        self._done.append(grant)
        self._news.set()

    async def _make_room(self, scope: CancelScope) -> None:
        while len(self._done) >= self._room and not self._over:
            with _unshielded(scope):
                await self._taken.wait()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, GrantHeld) and isinstance(error.grant, Grant):
            self._done.append(evolve(error.grant, error=error))  # an answer that the ledger could not record
        if not (self._over and isinstance(error, UsageError)):
            # The end of the run interrupted this call; its row is planned.
            self._failure = self._failure or error
        self.stop()
        self._news.set()

    def _note(self, grant: Grant, *, fresh: bool) -> None:
        self._counts[_counted_as(grant, fresh=fresh, began=self._began)] += 1
        if not fresh:
            return
        unknown = grant.status is GrantStatus.UNKNOWN
        self._unknown_in_a_row = self._unknown_in_a_row + 1 if unknown else 0
        reason = self._reason_to_stop(grant)
        if reason in self._stop_on:
            self.stopped = self.stopped or reason
            self.stop()

    def _reason_to_stop(self, grant: Grant) -> StopReason | None:
        if rejects_credentials(grant):
            return StopReason.CREDENTIALS
        if grant.status is GrantStatus.PLANNED and self._session.retry_tokens < COST_TRANSIENT:
            return StopReason.BUDGET
        return StopReason.UNKNOWN if self._unknown_in_a_row >= self._unknown_limit else None


def _is_resumed(grant: Grant, fresh: bool) -> bool:  # noqa: FBT001 - what `GrantOne` returns
    return not fresh and grant.status in SUCCEEDED and grant.error is None


def _counted_as(grant: Grant, *, fresh: bool, began: datetime) -> str:
    if isinstance(grant.error, RefConflict):
        return "conflicts"
    held_for_gap = grant.status is GrantStatus.UNKNOWN and not grant.attempts  # by the ledger, in this run
    if not fresh and grant.updated_at >= began and not held_for_gap:
        return "duplicates"
    if grant.status in SUCCEEDED:
        return "granted" if fresh else "already"
    if grant.status in (GrantStatus.REFUSED, GrantStatus.ABANDONED):
        return "refused"
    return "unknown" if grant.status is GrantStatus.UNKNOWN else "planned"


class _Signal:
    """Wakes the tasks that wait for it; creates an Event only if a task waits."""

    def __init__(self) -> None:
        self._event: Event | None = None

    def set(self) -> None:
        """Wake the tasks that wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait until it is set the next time."""
        self._event = self._event or Event()
        await self._event.wait()


@contextmanager
def _unshielded(scope: CancelScope) -> Generator[None]:
    scope.shield = False
    try:
        yield
    finally:
        scope.shield = True


@mutable(eq=False)
class _Place:
    """A worker's place among the workers that may have a request in flight.

    If a ledger does not settle later, there are more workers than places: while one waits until its answer is recorded,
    another claims the next row, and the ledger often records the answer and that claim at once.
    """

    places: Semaphore
    is_taken: bool = False

    async def take(self) -> None:
        """Wait for a place, unless it is taken already."""
        if not self.is_taken:
            if self.places.value:
                self.places.acquire_nowait()
            else:
                await self.places.acquire()
            self.is_taken = True

    def hand_over(self, *_answer: object) -> bool:
        """Leave the place; the worker records the answer itself."""
        self.leave()
        return False

    def leave(self) -> None:
        """Leave the place to another worker, if it is taken."""
        if self.is_taken:
            self.is_taken = False
            self.places.release()


class _Source:
    """The input: gives the next request to the worker that asks for it."""

    def __init__(self, requests: Requests) -> None:
        self._items: Iterator[GrantRequest] | None = None
        self._later: AsyncIterator[GrantRequest] | None = None
        self._turn = Lock(fast_acquire=True)
        self._failure: Exception | None = None
        self.longest_page = _LONGEST_PAGE
        if isinstance(requests, AsyncIterable):
            self._later = aiter(requests)
            self.longest_page = 1
        elif isinstance(requests, Iterable) and not isinstance(requests, str | bytes):
            self._items = iter(requests)
        else:
            msg = f"requests must be an iterable or async iterable of GrantRequest, not {type(requests).__name__}"
            raise UsageError(msg)

    @property
    def is_async(self) -> bool:
        """Tell whether the input is async."""
        return self._later is not None

    async def aclose(self) -> None:
        """Close an async generator: nothing else does, and trio warns about one that is not closed."""
        later: Any = self._later
        if isinstance(later, AsyncGenerator | Selected):
            async with self._turn:
                await later.aclose()

    def first(self) -> GrantRequest | None:
        """Return the next request of an input that is not async, or None at the end."""
        found = self.page(1)
        return found[0] if found else None

    async def next(self, scope: CancelScope) -> GrantRequest | None:
        """Return the next request of an async input, or None at the end.

        Waiting for it can be cancelled, even in a shielded scope.
        """
        assert self._later is not None  # noqa: S101 - one of the two
        with _unshielded(scope):
            async with self._turn:
                request = await anext(self._later, None)
        return None if request is None else _checked(request)

    def page(self, size: int) -> list[GrantRequest]:
        """Return the next requests of an input that is not async, at most `size`.

        If the input fails, the requests before the failure are returned first.
        """
        assert self._items is not None  # noqa: S101 - not async
        if self._failure is not None:
            raise self._failure
        found: list[GrantRequest] = []
        try:
            for request in islice(self._items, size):
                found.append(_checked(request))  # noqa: PERF401 - requests before a failure must be kept
        except Exception as error:
            if not found:
                raise
            self._failure = error
        return found


def _checked(request: object) -> GrantRequest:
    if not isinstance(request, GrantRequest):
        msg = f"requests must hold GrantRequest values, not {type(request).__name__}"
        raise UsageError(msg)
    return request
