"""Storage in PostgreSQL for coroutines on asyncio and trio: jobs run in threads, each on a lane of its own.

psycopg's own coroutines support asyncio only. A lane is one connection. A lane that did not end cleanly, or on which
the server reported an error, is closed and not used again.
"""

import os
import time
from collections.abc import Callable, Iterable
from threading import Condition
from typing import Final, TypeVar

import psycopg
from anyio import CancelScope, CapacityLimiter, to_thread
from psycopg.pq import TransactionStatus

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.errors import is_transient, postgres_error
from tgmembership_async.storage.postgres.schema import migrate
from tgmembership_async.storage.postgres.server import Lane, Server
from tgmembership_async.values.secret import Secret

T = TypeVar("T")
Job = Callable[[Lane], T]
"""A function that runs on a lane, in a thread. It is run again after a lost connection, so it has to find out whether
an earlier run was committed without confirmation."""

LANES: Final = 4
PATIENCE: Final = 30.0
"""Seconds for which a job is tried again while the server is unreachable; a restart takes less."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class PostgresStorage:
    """The tables of some components in the database that `conninfo` names. Open and close it in any task."""

    def __init__(self, conninfo: str | Secret, components: Iterable[Component]) -> None:
        self.server: Server = Server(conninfo)
        self.schema = ""
        self.on_trouble: Callable[[], None] = _nothing
        self._components = tuple(components)
        self._lanes: list[Lane] = []
        self._limiter: CapacityLimiter | None = None
        self._rest = Condition()
        self._running = 0
        self._process = 0
        self._opened = False

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened and not closed since."""
        return self._limiter is not None

    async def open(self, first: Job[None]) -> None:
        """Connect, bring the tables up to date, and run the first job.

        Raises UsageError if the server rejects the user, the user may not create tables, or the tables are newer than
        this package; StorageError if the server is unreachable, or read-only in a failover. Nothing is retried here.
        """
        if self.is_open:
            msg = f"{self.server} is open already"
            raise UsageError(msg)

        def prepare(lane: Lane) -> None:
            self.check_connection(lane)
            self.schema = migrate(lane, self.server, self._components)
            first(lane)

        self._process = os.getpid()
        self._opened = False
        self._limiter = CapacityLimiter(LANES)
        try:
            await to_thread.run_sync(self._carry_out, prepare, 0.0, limiter=self._limiter)
        except BaseException:
            self._limiter = None
            self._close()
            raise
        self._opened = True

    def check_connection(self, lane: Lane) -> None:
        """Raise UsageError if a connection cannot do what these tables need; in a thread."""

    async def aclose(self) -> None:
        """Wait for running jobs, and disconnect. Closing twice is allowed."""
        self._limiter = None
        with CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def check_open(self) -> None:
        """Raise UsageError unless it is open, in this process."""
        if self._limiter is None:
            line = self._components[-1].entering("Postgres")
            msg = f"{self.server} is not open: write {line} or await its open() first"
            raise UsageError(msg)
        if self._process != os.getpid():
            msg = f"{self.server} was opened before this process was forked: open it in the child"
            raise UsageError(msg)

    async def run(self, job: Job[T], *, patience: float | None = None, abandon: bool = False) -> T:
        """Run a job and return its result; retry it for `patience` seconds (PATIENCE) while the server is unreachable.

        Raises StorageError if the server fails; then no change of the job is known to be committed. With `abandon`,
        cancelling the caller does not wait for the thread.
        """
        self.check_open()
        seconds = PATIENCE if patience is None else patience
        return await to_thread.run_sync(self._carry_out, job, seconds, limiter=self._limiter, abandon_on_cancel=abandon)

    def _carry_out(self, job: Job[T], patience: float) -> T:
        end, pause = time.monotonic() + patience, _FIRST_PAUSE
        with self._rest:
            self._running += 1
        try:
            while True:
                result, failure = self._attempt(job)
                if failure is None:
                    return result[0]
                if not is_transient(failure, opened=self._opened) or time.monotonic() >= end or self._limiter is None:
                    break
                self.on_trouble()
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            with self._rest:
                self._running -= 1
                self._rest.notify_all()
        raise postgres_error(self.server, failure, opened=self._opened)

    def _attempt(self, job: Job[T]) -> tuple[list[T], psycopg.Error | None]:
        lane: Lane | None = None
        try:
            lane = self._idle() or self.server.connect()
            return [job(lane)], None
        except psycopg.Error as error:
            if lane is not None:
                lane.close()  # a demoted server keeps its connections, and would fail each retry in the same way
            return [], error.with_traceback(None)  # its frames hold the password
        finally:
            if lane is not None:
                self._put_back(lane)

    def _idle(self) -> Lane | None:
        try:
            return self._lanes.pop()
        except IndexError:
            return None

    def _put_back(self, lane: Lane) -> None:
        if lane.closed or lane.info.transaction_status is not TransactionStatus.IDLE or len(self._lanes) >= LANES:
            lane.close()
        else:
            self._lanes.append(lane)

    def _close(self) -> None:
        if self._process != os.getpid():
            return
        with self._rest:
            self._rest.wait_for(lambda: not self._running, PATIENCE)
        while self._lanes:
            self._lanes.pop().close()


def _nothing() -> None:
    return None
