"""The writer: the only thread that accesses a file. It takes all queued jobs, commits once, and wakes their waiters."""

import atexit
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep
from typing import Any, Final
from weakref import WeakSet

from attrs import frozen

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.sqlite.generations import Generations, check_there
from tgmembership_async.storage.sqlite.group_commit import QueuedJob, carry_out, refuse
from tgmembership_async.storage.sqlite.guest_counter import GuestCounter
from tgmembership_async.storage.sqlite.owner_lock import OwnerLock
from tgmembership_async.storage.sqlite.schema import check_indexes, check_path, connect
from tgmembership_async.storage.wakeups import Waiter, wake_all

_LARGEST_GROUP: Final = 1_000
_LARGE_GROUP: Final = 16
_WAIT_FOR_MORE: Final = 0.001  # seconds
_MOST_QUEUED: Final = 50_000
_LAST_COMMITS_TAKE_AT_MOST: Final = 60.0

Group = list[QueuedJob[Any]]


@frozen
class Opening:
    """The options for opening a file; `wait` is the number of seconds to wait for another owner to end."""

    owner: bool = True
    must_exist: bool = False
    restored: bool = False
    wait: float = 0.0


class Writer:
    """A thread with one connection, from construction to `end`; as the owner it holds the file's lock meanwhile.

    If the file cannot be opened, every job fails. `after` is a writer of the same file that is still closing.
    """

    def __init__(self, path: Path, opening: Opening, after: "Writer | None" = None) -> None:
        self.path = path
        self.opening = opening
        self.components: set[str] = set()
        self.ending: bool = False
        self._after = after
        self._lock: OwnerLock | None = None
        self._generations: Generations | GuestCounter | None = None
        self._queue: SimpleQueue[QueuedJob[Any] | None] = SimpleQueue()
        self._last_size = 0
        self._end_waiter: Waiter | None = None
        self.forked: bool = False
        # A daemon thread: an event loop that ends without closing must not keep the program alive; see _at_exit.
        self._thread = Thread(target=self._work, name=f"writer of {path}", daemon=True)
        _ALIVE.add(self)
        atexit.register(self._at_exit)
        self._thread.start()

    def submit(self, queued: QueuedJob[Any]) -> None:
        """Queue a job; its `woken` is woken when the job is durable or has failed."""
        if self.forked:
            msg = f"{self.path} was opened before this process was forked: open it in the child"
            raise UsageError(msg)
        if self.ending:
            raise UsageError(self._closed)
        if self._queue.qsize() >= _MOST_QUEUED:
            msg = f"{self.path}: {_MOST_QUEUED:,} jobs are queued, as the disk is too slow; this one was not stored"
            raise StorageError(msg)
        self._queue.put(queued)

    def end(self, waiter: Waiter | None) -> None:
        """Let the thread finish the queued jobs, close the file and wake the waiter; call `join` afterwards."""
        self.ending = True
        self._end_waiter = waiter
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread to end; this takes no time once its waiter was woken."""
        atexit.unregister(self._at_exit)
        self._thread.join()

    @property
    def _closed(self) -> str:
        return f"{self.path} is closed: keep it open as long as the program uses it"

    def _work(self) -> None:
        with ExitStack() as stack:
            do = self._open(stack)
            while group := self._take():
                do(group)
                wake_all(queued.woken for queued in group)
                if self._generations is not None:
                    self._generations.write_lock_file()
                del group  # jobs hold tokens, and the next group may be hours away
        self._refuse_late()
        if self._end_waiter is not None:
            wake_all([self._end_waiter])

    def _open(self, stack: ExitStack) -> Callable[[Group], None]:
        if self._after is not None:
            self._after.join()
            self._after = None
        how = self.opening
        try:
            check_path(self.path, owner=how.owner, must_exist=how.must_exist)
            if how.owner:
                self._lock = OwnerLock.take(self.path, wait=how.wait, given_up=lambda: self.ending)
                stack.callback(self._lock.release)
                check_there(self.path, self._lock, restored=how.restored)
            connection = stack.enter_context(closing(connect(self.path, owner=how.owner)))
            if self._lock is not None:
                self._generations = self._examine(connection, self._lock)
            else:
                self._generations = GuestCounter(self.path, connection)
            stack.callback(self._generations.close, connection)
        except BaseException as error:  # noqa: BLE001 - any error is reported to the caller of `open`
            stack.close()
            return partial(refuse, self.path, error)
        return partial(carry_out, connection, self.path, generations=self._generations)

    def _examine(self, connection: sqlite3.Connection, lock: OwnerLock) -> Generations:
        generations = Generations(self.path, connection, lock)
        if not generations.was_closed:
            check_indexes(connection, self.path)
        generations.check(restored=self.opening.restored)
        return generations

    def _take(self) -> Group:
        """Wait for a job, and return it with all that are queued behind it; empty at the end.

        After a large group, a smaller one first waits a moment for more jobs: its commit would take as much CPU time.
        """
        group: Group = []
        queued = self._queue.get()
        if queued is not None and self._queue.qsize() + 1 < self._last_size >= _LARGE_GROUP:
            sleep(_WAIT_FOR_MORE)
        while queued is not None:
            group.append(queued)
            if len(group) == _LARGEST_GROUP:
                break
            try:
                queued = self._queue.get_nowait()
            except Empty:
                break
        else:
            if group:
                self._queue.put(None)  # the end marker stays behind this group
        self._last_size = len(group)
        return group

    def _refuse_late(self) -> None:
        late: Group = []
        while not self._queue.empty():
            queued = self._queue.get()
            if queued is not None:
                late.append(queued)
        refuse(self.path, UsageError(self._closed), late)
        wake_all(queued.woken for queued in late)

    def _at_exit(self) -> None:
        self.end(None)
        self._thread.join(_LAST_COMMITS_TAKE_AT_MOST)

    def _after_fork(self) -> None:
        self.forked = True
        if self._lock is not None:
            self._lock.close()


_ALIVE: Final[WeakSet[Writer]] = WeakSet()


def _forget_all() -> None:
    for writer in list(_ALIVE):
        writer._after_fork()  # noqa: SLF001 - defined beside Writer


if hasattr(os, "register_at_fork"):
    # A forked child has no writer threads, and must not hold its parent's locks after the parent has ended.
    os.register_at_fork(after_in_child=_forget_all)
