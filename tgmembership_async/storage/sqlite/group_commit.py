"""Group commit: many jobs in one transaction, and one COMMIT for all of them; a job that raises is undone alone."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from tgmembership_async.errors import TGMembershipError
from tgmembership_async.storage.sqlite.errors import storage_error
from tgmembership_async.storage.sqlite.generations import Generations
from tgmembership_async.storage.wakeups import Waiter, waiter

A = TypeVar("A")
T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
"""What is done with the connection, in the writer's thread. It leaves no cursor half read and no transaction ended.

It may be undone and done again, if another job of its group raises; so it changes nothing but the file.
"""


Jobs = Callable[[sqlite3.Connection, Sequence[A]], list[T]]
"""The same for each of several that stand side by side in the queue, in one go; their results in this order."""


def each(connection: sqlite3.Connection, jobs: Sequence[Job[T]]) -> list[T]:
    """Do jobs that have nothing in common."""
    return [job(connection) for job in jobs]


class Errand(Generic[T]):
    """A job on its way: out to the thread, and back to the coroutine that waits with its result or error."""

    __slots__ = ("error", "jobs", "one", "result", "waiter", "writes")

    def __init__(self, jobs: Jobs[A, T], one: A, *, writes: bool) -> None:
        self.jobs: Jobs[Any, T] = jobs
        self.one: object = one
        self.writes: bool = writes
        self.waiter: Waiter = waiter()
        self.error: BaseException | None = None
        self.result: list[T] = []

    def outcome(self) -> T:
        """Return the result, or raise what kept it from being."""
        if self.error is not None:
            error, self.error = self.error, None  # an error that its own traceback leads to is a cycle
            raise error
        return self.result.pop()


def carry_out(
    connection: sqlite3.Connection, path: Path, group: list[Errand[Any]], *, generations: Generations | None = None
) -> None:
    """Run a group as one transaction. A job that raises is undone alone; what stops the COMMIT undoes them all."""
    writes = any(errand.writes for errand in group)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    try:
        connection.execute(begin)
        if not _run_all(connection, group):
            # A savepoint for each job costs a third of a grant, and a job seldom raises: only now they are needed.
            connection.execute("ROLLBACK")
            connection.execute(begin)
            for errand in group:
                _run_alone(connection, path, errand)
        if writes and generations is not None:
            generations.count(connection)
            connection.execute("COMMIT")
            generations.kept()
        else:
            connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001 - the thread outlives whatever it is, and nobody may wait in vain
        _roll_back(connection)
        refuse(path, error, group)


def _run_all(connection: sqlite3.Connection, group: list[Errand[Any]]) -> bool:
    try:
        for jobs, neighbours in groupby(group, attrgetter("jobs")):
            together = list(neighbours)
            for errand, result in zip(together, jobs(connection, [errand.one for errand in together]), strict=True):
                errand.result = [result]
    except BaseException:
        if not connection.in_transaction:
            raise  # SQLite gave the whole transaction up, as it does on a full disk
        return False
    return True


def refuse(path: Path, error: BaseException, group: Iterable[Errand[Any]]) -> None:
    """Let all errands of a group fail for one reason, but for those that have a reason of their own."""
    for errand in group:
        # Each gets an exception of its own: one that is raised in many tasks collects the frames of all of them.
        errand.error = errand.error or _own(path, error)


def _own(path: Path, error: BaseException) -> BaseException:
    return copy(error) if isinstance(error, TGMembershipError) else storage_error(path, error)


def _run_alone(connection: sqlite3.Connection, path: Path, errand: Errand[Any]) -> None:
    connection.execute("SAVEPOINT job")
    try:
        errand.result = errand.jobs(connection, [errand.one])
    except BaseException as error:  # its caller gets it
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO job")
        errand.error = storage_error(path, error) if isinstance(error, sqlite3.Error) else error
    connection.execute("RELEASE job")


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # What cannot be undone now is undone from the journal by the next transaction, here or after a restart.
        return
