"""Tables in a SQLite file, for coroutines: jobs run in order in one thread, and are durable when they return.

A file has one owner process, and in it one writer, which the components that share the file share as well. Any other
process, and any other part of this one, may open it beside the owner with `owner=False`.
"""

import os
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from anyio import CancelScope

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.sqlite.group_commit import Errand, Job, Jobs, each
from tgmembership_async.storage.sqlite.schema import adopt, check_sqlite
from tgmembership_async.storage.sqlite.writer import Writer
from tgmembership_async.storage.wakeups import waiter

__all__ = ["Component", "Job", "SqliteStorage"]

A = TypeVar("A")
T = TypeVar("T")


class SqliteStorage:
    """The tables of one component in a SQLite file: `write` and `read` take jobs for the file's one connection.

    As the owner it creates the file (mode 0600) and brings its tables up to date; one process at a time, and in it one
    storage for each component. With `owner=False` the file and the tables must be there.

    Open and close it in any task, on any event loop, also on several one after the other. What is queued happens even
    if the coroutine that waits for it is cancelled.
    """

    def __init__(self, path: str | os.PathLike[str], component: Component, *, owner: bool = True) -> None:
        check_sqlite()
        self.path: Path = _checked(path)
        self.owner = owner
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
        writer = _enter(self.path, self._component, owner=self.owner)
        prepare = partial(adopt, path=self.path, component=self._component, owner=self.owner)
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

    def _opened(self) -> Writer:
        if self._writer is None:
            msg = f"{self.path} is not open: use `async with`, or await open() first"
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
    # Two names of one file would have two locks.
    return Path(os.path.realpath(name))


async def _carried_out(writer: Writer, jobs: Jobs[A, T], one: A, *, writes: bool) -> T:
    errand = Errand(jobs, one, writes=writes)
    writer.submit(errand)
    await errand.waiter.wait()
    return errand.outcome()


_GUARD: Final = threading.Lock()
_OWNED: Final[dict[Path, Writer]] = {}
"""The writers of the files that this process owns, those included that are just ending."""


def _enter(path: Path, component: Component, *, owner: bool) -> Writer:
    if not owner:
        return Writer(path, owner=False)
    with _GUARD:
        writer = _OWNED.get(path)
        if writer is None or writer.ending or writer.forked:
            writer = _OWNED[path] = Writer(path, owner=True, after=writer)
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
