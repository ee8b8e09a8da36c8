"""Tables in a SQLite file, for coroutines: jobs run in order in one thread, and are durable when they return.

A file has one owner process, and in it one writer, which the components that share the file share as well. Any other
process, and any other part of this one, may open it beside the owner with `owner=False`.
"""

import math
import os
import sqlite3
import threading
from collections.abc import Generator
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
from tgmembership_async.storage.sqlite.group_commit import Errand, Job, Jobs, each
from tgmembership_async.storage.sqlite.schema import adopt, check_sqlite
from tgmembership_async.storage.sqlite.writer import Opening, Writer
from tgmembership_async.storage.wakeups import waiter

__all__ = ["Component", "Job", "SqliteStorage"]

A = TypeVar("A")
T = TypeVar("T")
_WAIT: Final[ContextVar[float]] = ContextVar("_WAIT", default=0.0)


class SqliteStorage:
    """The tables of one component in a SQLite file: `write` and `read` take jobs for the file's one connection.

    As the owner it creates the file (mode 0600) and brings its tables up to date; one process at a time, and in it one
    storage for each component. With `owner=False` the file and the tables must be there.

    `must_exist` refuses to make a new file or new tables. `restored` accepts a file that is older than the one that was
    in use here, and records the gap. `wait` is how many seconds to wait for another owner to end; None is what
    `waiting_for_owners` says, and otherwise 0.

    Open and close it in any task, on any event loop, also on several one after the other. What is queued happens even
    if the coroutine that waits for it is cancelled.
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
        self.path: Path = _checked(path)
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
        """Open the file. Raises UsageError if it is not ours, too new, or in use by another owner; StorageError if the
        file or the disk is broken. In either case the file stays as it was.
        """  # noqa: D205 - what it raises is half the contract
        if self._writer is not None:
            msg = f"{self.path} is open already"
            raise UsageError(msg)
        how = evolve(self._opening, wait=_WAIT.get() if self._wait is None else self._wait)
        writer = _enter(self.path, self._component, how)
        prepare = partial(adopt, path=self.path, component=self._component, owner=how.owner, must_exist=how.must_exist)
        try:
            await _carried_out(writer, each, prepare, writes=self.owner)
        except Exception:
            await _leave(writer, self._component)
            raise
        except BaseException:
            if _detach(writer, self._component):
                writer.end(None)  # cancelled: the thread finds its way out alone
            raise
        self._writer = writer

    async def aclose(self) -> None:
        """Finish what is queued, and let go of the file. Closing twice is fine."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await _leave(writer, self._component)

    async def write(self, job: Job[T]) -> T:
        """Return what the job returns, once that is durable. A job that raises is undone, and the error is raised here.

        Raises StorageError where SQLite or the disk fails; then nothing of the job was kept.
        """
        return await _carried_out(self._opened(), each, job, writes=True)

    async def write_together(self, jobs: Jobs[A, T], one: A) -> T:
        """Like `write`, with what waits next to it for the same jobs done in one go."""
        return await _carried_out(self._opened(), jobs, one, writes=True)

    async def read(self, job: Job[T]) -> T:
        """Return what a job returns that changes nothing; it sees everything that was queued before it."""
        return await _carried_out(self._opened(), each, job, writes=False)

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the file as it is now to a new one (mode 0600), beside whoever has it open; writers wait meanwhile.

        Raises UsageError if there is a file of that name, StorageError if the disk fails; then no file is left.
        """
        self._opened()
        await self.read(_nothing)  # what was queued before is in it
        await to_thread.run_sync(back_up, self.path, _checked(target))

    def _opened(self) -> Writer:
        if self._writer is None:
            msg = f"{self.path} is not open: write {self._component.entering('Sqlite')} or await its open() first"
            raise UsageError(msg)
        return self._writer


def _checked(path: str | os.PathLike[str]) -> Path:
    name: object = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        msg = f"a path is a str or a pathlib.Path, not {type(path).__name__}"
        raise UsageError(msg)
    if not name or name == ":memory:" or "\0" in name:
        msg = f"{name!r} is no file; what need not outlive the process has classes of its own, in memory"
        raise UsageError(msg)
    # Two names of one file would have two locks. A link in place of the file itself is refused when it is opened.
    file = Path(name).absolute()
    return Path(os.path.realpath(file.parent), file.name)


def _checked_wait(wait: float) -> float:
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < math.inf:
        msg = f"wait is a number of seconds, 0 or more, not {wait!r:.80}"
        raise UsageError(msg)
    return float(wait)


@contextmanager
def waiting_for_owners(seconds: float) -> Generator[None]:
    """Have every file that is opened inside wait so long for its owner to end, unless it was told otherwise."""
    token = _WAIT.set(_checked_wait(seconds))
    try:
        yield
    finally:
        _WAIT.reset(token)


async def _carried_out(writer: Writer, jobs: Jobs[A, T], one: A, *, writes: bool) -> T:
    errand = Errand(jobs, one, writes=writes)
    writer.submit(errand)
    await errand.waiter.wait()
    return errand.outcome()


_GUARD: Final = threading.Lock()
_OWNED: Final[dict[Path, Writer]] = {}
"""The writers of the files that this process owns, those included that are just ending."""


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
    """Wait until what is queued is done and, if nobody else uses the writer, until it is gone."""
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
