"""Group commit: many jobs in one transaction with one COMMIT; a job that raises is rolled back alone."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.storage.sqlite.errors import storage_error
from tgmembership_async.storage.sqlite.generations import Generations
from tgmembership_async.storage.sqlite.guest_counter import GuestCounter
from tgmembership_async.storage.wakeups import Soon, Waiter, Woken, running_loop, waiter

A = TypeVar("A")
T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
"""A function that runs with the connection, in the writer's thread. It leaves no cursor open and ends no transaction.

It may be rolled back and run again if another job of its group raises, so it changes nothing but the file.
"""


Jobs = Callable[[sqlite3.Connection, Sequence[A]], list[T]]
"""The same for several arguments that are adjacent in the queue, in one call; returns their results in this order."""


def each(connection: sqlite3.Connection, jobs: Sequence[Job[T]]) -> list[T]:
    """Run jobs that have nothing in common."""
    return [job(connection) for job in jobs]


class QueuedJob(ABC, Generic[T]):
    """A job in the writer's queue, and its result or error; `woken` is woken when it has one of them."""

    __slots__ = ("error", "jobs", "one", "result", "writes")

    def __init__(self, jobs: Jobs[A, T], one: A, *, writes: bool) -> None:
        self.jobs: Jobs[Any, T] = jobs
        self.one: object = one
        self.writes: bool = writes
        self.error: BaseException | None = None
        self.result: list[T] = []

    @property
    @abstractmethod
    def woken(self) -> Woken: ...  # noqa: D102 - as its class says

    def outcome(self) -> T:
        """Return the result of the job, or raise its error."""
        if self.error is None:
            return self.result.pop()
        try:
            raise self.error
        finally:
            self.error = None  # an error that its own traceback refers to is a cycle


class AwaitedJob(QueuedJob[T]):
    """A job whose result or error a coroutine waits for."""

    __slots__ = ("waiter",)

    def __init__(self, jobs: Jobs[A, T], one: A, *, writes: bool) -> None:
        super().__init__(jobs, one, writes=writes)
        self.waiter: Waiter = waiter()

    @property
    def woken(self) -> Waiter:
        """Return the waiter."""
        return self.waiter


class UnawaitedJob(QueuedJob[T]):
    """A job that no coroutine waits for: `done` gets its result, or None if it failed, and must not raise."""

    __slots__ = ("_done", "soon")

    def __init__(self, jobs: Jobs[A, T], one: A, done: Callable[[T | None], object]) -> None:
        super().__init__(jobs, one, writes=True)
        self.soon: Soon = running_loop()
        self._done = done

    @property
    def woken(self) -> Self:
        """Return the job itself."""
        return self

    def wake(self) -> None:
        """Pass the result on."""
        self._done(None if self.error is not None else self.result.pop())


def carry_out(
    connection: sqlite3.Connection,
    path: Path,
    group: list[QueuedJob[Any]],
    *,
    generations: Generations | GuestCounter | None = None,
) -> None:
    """Run a group as one transaction. A job that raises is rolled back alone; an error of COMMIT fails all of them."""
    writes = any(queued.writes for queued in group)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    try:
        connection.execute(begin)
        if not _run_all(connection, group):
            # A savepoint for each job costs a third of a grant, and jobs seldom raise: only a second run has them.
            connection.execute("ROLLBACK")
            connection.execute(begin)
            for queued in group:
                _run_alone(connection, path, queued)
        if writes and generations is not None:
            generations.count(connection)
            connection.execute("COMMIT")
            generations.kept()
        else:
            connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001 - the thread survives any error, and every waiter gets an outcome
        _roll_back(connection)
        refuse(path, error, group)


def _run_all(connection: sqlite3.Connection, group: list[QueuedJob[Any]]) -> bool:
    try:
        for jobs, neighbours in groupby(group, attrgetter("jobs")):
            together = list(neighbours)
            for queued, result in zip(together, jobs(connection, [queued.one for queued in together]), strict=True):
                queued.result = [result]
    except BaseException:
        if not connection.in_transaction:
            raise  # SQLite rolled back the whole transaction, as it does on a full disk
        return False
    return True


def refuse(path: Path, error: BaseException, group: Iterable[QueuedJob[Any]]) -> None:
    """Set one error as the outcome of all jobs of a group, except those that have an error of their own."""
    for queued in group:
        # Each gets an exception of its own: one that is raised in many tasks collects the frames of all of them.
        queued.error = queued.error or _own(path, error)


def _own(path: Path, error: BaseException) -> BaseException:
    return copy(error) if isinstance(error, TGMembershipError) else storage_error(path, error)


def _run_alone(connection: sqlite3.Connection, path: Path, queued: QueuedJob[Any]) -> None:
    connection.execute("SAVEPOINT job")
    try:
        queued.result = queued.jobs(connection, [queued.one])
    except BaseException as error:  # its caller gets it
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO job")
        queued.error = storage_error(path, error) if isinstance(error, sqlite3.Error) else error
    connection.execute("RELEASE job")


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # The next transaction, here or after a restart, rolls back from the journal what could not be rolled back now.
        return
