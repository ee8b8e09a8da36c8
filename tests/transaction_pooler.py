"""A pooler in transaction mode, without PgBouncer: each transaction runs on whichever connection is free."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from tgmembership_async.storage.postgres.server import Lane, Server


class PooledServer(Server):
    """A Server whose connections share `size` real ones: the one used last comes first, or last with `rotates`."""

    def __init__(self, conninfo: str, *, size: int = 3, rotates: bool = False) -> None:
        super().__init__(conninfo)
        self.free = [super(PooledServer, self).connect() for _ in range(size)]
        self.rotates = rotates

    def connect(self) -> Any:
        return PooledLane(self)

    def take(self) -> Lane:
        return self.free.pop(0 if self.rotates else -1)

    def end(self) -> None:
        for lane in self.free:
            lane.close()


class PooledLane:
    """What a client of the pooler sees as its connection."""

    def __init__(self, server: PooledServer) -> None:
        self._server = server
        self._held: Lane | None = None
        self.closed = False

    @property
    def info(self) -> Any:
        return self._server.free[-1].info

    def execute(self, *arguments: Any) -> Any:
        if self._held is not None:
            return self._held.execute(*arguments)
        lane = self._server.take()
        try:
            return lane.execute(*arguments)
        finally:
            self._server.free.append(lane)

    @contextmanager
    def transaction(self) -> Generator[None]:
        lane = self._held = self._server.take()
        try:
            with lane.transaction():
                yield
        finally:
            self._held = None
            self._server.free.append(lane)

    def close(self) -> None:
        self.closed = True
