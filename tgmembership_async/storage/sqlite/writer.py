"""The writer: the one thread that touches a file. It takes all that is queued, commits once, and wakes who waited."""

import atexit
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final
from weakref import WeakSet

from attrs import frozen

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.sqlite.generations import Generations, check_there
from tgmembership_async.storage.sqlite.group_commit import Errand, carry_out, refuse
from tgmembership_async.storage.sqlite.owner_lock import OwnerLock
from tgmembership_async.storage.sqlite.schema import check_indexes, check_path, connect
from tgmembership_async.storage.wakeups import Waiter, wake_all

_LARGEST_GROUP: Final = 1_000
_MOST_QUEUED: Final = 50_000
_LAST_COMMITS_TAKE_AT_MOST: Final = 60.0

Group = list[Errand[Any]]


@frozen
class Opening:
    """How a file is opened: `wait` is how many seconds its owner may wait for another one to end."""

    owner: bool = True
    must_exist: bool = False
    restored: bool = False
    wait: float = 0.0


class Writer:
    """A thread with one connection, from its making to `end`; as owner it holds the file's lock all that time.

    A file that cannot be opened is reported to every errand. `after` is a writer of the same file that is still ending.
    """

    def __init__(self, path: Path, opening: Opening, after: "Writer | None" = None) -> None:
        self.path = path
        self.opening = opening
        self.components: set[str] = set()
        self.ending: bool = False
        self._after = after
        self._lock: OwnerLock | None = None
        self._generations: Generations | None = None
        self._queue: SimpleQueue[Errand[Any] | None] = SimpleQueue()
        self._gone: Waiter | None = None
        self.forked: bool = False
        # A daemon, for an event loop that dies without closing must not keep the program alive; see _at_exit.
        self._thread = Thread(target=self._work, name=f"writer of {path}", daemon=True)
        _ALIVE.add(self)
        atexit.register(self._at_exit)
        self._thread.start()

    def submit(self, errand: Errand[Any]) -> None:
        """Queue an errand; its waiter is woken when it is durable, or has failed."""
        if self.forked:
            msg = f"{self.path} was opened before this process was forked: open it in the child"
            raise UsageError(msg)
        if self.ending:
            raise UsageError(self._closed)
        if self._queue.qsize() >= _MOST_QUEUED:
            msg = f"{self.path}: {_MOST_QUEUED:,} jobs wait for the disk, which does not keep up; this one was not kept"
            raise StorageError(msg)
        self._queue.put(errand)

    def end(self, waiter: Waiter | None) -> None:
        """Let the thread finish what is queued, close the file, and then wake the waiter; `join` follows."""
        self.ending = True
        self._gone = waiter
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread; after its last word that takes no time."""
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
                wake_all(errand.waiter for errand in group)
                if self._generations is not None:
                    self._generations.tell()
                del group  # jobs hold tokens, and the next one may be hours away
        self._turn_away_the_late()
        if self._gone is not None:
            wake_all([self._gone])

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
                stack.callback(self._generations.close, connection)
        except BaseException as error:  # noqa: BLE001 - whoever opens it gets to know, whatever it is
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
        """Wait for an errand, and return it with all that are queued behind it; empty at the end."""
        group: Group = []
        errand = self._queue.get()
        while errand is not None:
            group.append(errand)
            if len(group) == _LARGEST_GROUP:
                return group
            try:
                errand = self._queue.get_nowait()
            except Empty:
                return group
        if group:
            self._queue.put(None)  # the end stays where it is: behind this group
        return group

    def _turn_away_the_late(self) -> None:
        late: Group = []
        while not self._queue.empty():
            errand = self._queue.get()
            if errand is not None:
                late.append(errand)
        refuse(self.path, UsageError(self._closed), late)
        wake_all(errand.waiter for errand in late)

    def _at_exit(self) -> None:
        self.end(None)
        self._thread.join(_LAST_COMMITS_TAKE_AT_MOST)

    def _after_fork(self) -> None:
        self.forked = True
        if self._lock is not None:
            self._lock.forget()


_ALIVE: Final[WeakSet[Writer]] = WeakSet()


def _forget_all() -> None:
    for writer in list(_ALIVE):
        writer._after_fork()  # noqa: SLF001 - the other half of Writer


if hasattr(os, "register_at_fork"):
    # A forked child has no writer threads, and must not keep its parent's locks alive when that one dies.
    os.register_at_fork(after_in_child=_forget_all)
