"""Storage in a SQLite file for coroutines: jobs run in order in one thread, and are durable when they return.

A file has one owner process, and this process has one writer, which all components in the file share. Other processes,
and other parts of this one, may open the file beside the owner with `owner=False`.
"""

import math
import os
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from anyio import CancelScope, to_thread
from attrs import evolve

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.sqlite.backups import back_up
from tgmembership_async.storage.sqlite.group_commit import AwaitedJob, Job, Jobs, UnawaitedJob, each
from tgmembership_async.storage.sqlite.schema import check_sqlite, migrate
from tgmembership_async.storage.sqlite.writer import Opening, Writer
from tgmembership_async.storage.wakeups import waiter

__all__ = ["Component", "Job", "SqliteStorage"]

A = TypeVar("A")
T = TypeVar("T")
_LOOKS_LIKE_A_SERVER: Final = re.compile(
    r"\s*(?:[a-z][a-z0-9+.-]+:/|postgres(?:ql)?:|(?:host|hostaddr|dbname|user|password|port|service)\s*=)",
    re.IGNORECASE,
)
_WAIT: Final[ContextVar[float]] = ContextVar("_WAIT", default=0.0)


class SqliteStorage:
    """The tables of one component in a SQLite file: `write` and `read` run jobs on the file's one connection.

    The owner creates the file (mode 0600) and brings its tables up to date. One process at a time is the owner, with
    one storage for each component. With `owner=False` the file and the tables must exist.

    `must_exist` refuses to create a file or tables. `restored` accepts a file that is older than the one last used
    here, and records the gap. `wait` is the number of seconds to wait for another owner to end; None means the value of
    `waiting_for_owners`, and 0 outside of it.

    Open and close it in any task, on any event loop, also on several in turn. A queued job runs even if the coroutine
    that waits for it is cancelled.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        component: Component,
        *,
        owner: bool = True,
        must_exist: bool = False,
        restored: bool = False,
        wait: float | None = None,
    ) -> None:
        check_sqlite()
        self.path: Path = _checked(path, component)
        self.owner = owner
        self._opening = Opening(owner, must_exist, restored)
        self._wait = None if wait is None else _checked_wait(wait)
        if restored and not owner:
            msg = "restored=True is for the owner of a file, not with owner=False"
            raise UsageError(msg)
        self._component = component
        self._writer: Writer | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._writer is not None

    async def open(self) -> None:
        """Open the file; if that fails, the file stays unchanged.

        Raises UsageError if the file is another program's, too new, or in use by another owner; StorageError if the
        file or the disk is broken.
        """
        if self._writer is not None:
            msg = f"{self.path} is open already"
            raise UsageError(msg)
        how = evolve(self._opening, wait=_WAIT.get() if self._wait is None else self._wait)
        writer = _enter(self.path, self._component, how)
        prepare = partial(
            migrate, path=self.path, component=self._component, owner=how.owner, must_exist=how.must_exist
        )
        try:
            await _carried_out(writer, each, prepare, writes=self.owner)
        except Exception:
            await _leave(writer, self._component)
            raise
        except BaseException:
            if _detach(writer, self._component):
                writer.end(None)  # cancelled: the thread ends by itself
            raise
        self._writer = writer

    async def aclose(self) -> None:
        """Finish the queued jobs, and close the file. Closing twice is allowed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await _leave(writer, self._component)

    async def write(self, job: Job[T]) -> T:
        """Run a job, and return its result once that is durable. A job that raises is rolled back; its error is raised.

        Raises StorageError if SQLite or the disk fails; then nothing of the job was stored.
        """
        return await _carried_out(self._opened(), each, job, writes=True)

    def write_together(self, jobs: Jobs[A, T], one: A) -> Awaitable[T]:
        """Like `write`; adjacent queued calls with the same `jobs` are run in one call of it."""
        return _carried_out(self._opened(), jobs, one, writes=True)

    def write_later(self, jobs: Jobs[A, T], one: A, done: Callable[[T | None], object]) -> None:
        """Like `write_together`, without a coroutine that waits: `done` is called, and must not raise.

        Its argument is the result once that is durable, or None if the job or the disk failed and nothing was stored.
        """
        self._opened().submit(UnawaitedJob(jobs, one, done))

    async def read(self, job: Job[T]) -> T:
        """Run a job that changes nothing, and return its result; it sees the effect of everything queued before it."""
        return await _carried_out(self._opened(), each, job, writes=False)

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the file as it is now to a new one (mode 0600) while others use it; writers wait meanwhile.

        Raises UsageError if the target exists, StorageError if the disk fails; then no file is left.
        """
        self._opened()
        await self.read(_nothing)  # wait until everything queued before is committed
        await to_thread.run_sync(back_up, self.path, _checked(target, self._component))

    def check_open(self) -> None:
        """Raise UsageError, with the line to write, unless it is open."""
        self._opened()

    def _opened(self) -> Writer:
        if self._writer is None:
            msg = f"{self.path} is not open: write {self._component.entering('Sqlite')} or await its open() first"
            raise UsageError(msg)
        return self._writer


def _checked(path: str | os.PathLike[str], component: Component) -> Path:
    name: object = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        msg = f"a path is a str or a pathlib.Path, not {type(path).__name__}"
        raise UsageError(msg)
    if not name or name == ":memory:" or "\0" in name:
        msg = f"{name!r} is not a file: name a path, or use the in-memory class"
        raise UsageError(msg)
    if _LOOKS_LIKE_A_SERVER.match(name):  # it may hold a password, so the message does not quote it
        better = f"Postgres{component.name.capitalize()}(conninfo)"
        msg = f"this is a connection string, not a path: use {better}, or put './' before a file name that looks so"
        raise UsageError(msg)
    # Two names of one file would have two locks. A symbolic link in place of the file itself is refused at opening.
    file = Path(name).absolute()
    return Path(os.path.realpath(file.parent), file.name)


def _checked_wait(wait: float) -> float:
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < math.inf:
        msg = f"wait is a number of seconds, 0 or more, not {wait!r:.80}"
        raise UsageError(msg)
    return float(wait)


@contextmanager
def waiting_for_owners(seconds: float) -> Generator[None]:
    """Make every file that is opened inside wait `seconds` for its owner to end, unless it has a `wait` of its own."""
    token = _WAIT.set(_checked_wait(seconds))
    try:
        yield
    finally:
        _WAIT.reset(token)


async def _carried_out(writer: Writer, jobs: Jobs[A, T], one: A, *, writes: bool) -> T:
    queued = AwaitedJob(jobs, one, writes=writes)
    writer.submit(queued)
    await queued.waiter.wait()
    return queued.outcome()


_GUARD: Final = threading.Lock()
_OWNED: Final[dict[Path, Writer]] = {}
"""The writers of the files that this process owns, including those that are closing."""


def _enter(path: Path, component: Component, how: Opening) -> Writer:
    if not how.owner:
        return Writer(path, how)
    with _GUARD:
        writer = _OWNED.get(path)
        if writer is None or writer.ending or writer.forked:
            writer = _OWNED[path] = Writer(path, how, after=writer)
        if component.name in writer.components:
            msg = f"{path} is in use by this process already: share the object that has it open, or use owner=False"
            raise UsageError(msg)
        writer.components.add(component.name)
        return writer


async def _leave(writer: Writer, component: Component) -> None:
    """Wait until the queued jobs are done and, if there is no other user of the writer, until its thread has ended."""
    if writer.forked:
        return
    done = waiter()
    with CancelScope(shield=True):
        if _detach(writer, component):
            writer.end(done)
            await done.wait()
            writer.join()
            with _GUARD:
                if _OWNED.get(writer.path) is writer:
                    del _OWNED[writer.path]
        else:
            await _carried_out(writer, each, _nothing, writes=False)


def _detach(writer: Writer, component: Component) -> bool:
    with _GUARD:
        writer.components.discard(component.name)
        if not writer.components:
            writer.ending = True
        return writer.ending


def _nothing(_: sqlite3.Connection) -> None:
    return None
