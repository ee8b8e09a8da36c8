"""A server on loopback in a thread with its own event loop, for sync tests, asyncio, trio and other processes."""

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from types import TracebackType
from typing import ClassVar, Final, Self

from tgmembership_async.errors import UsageError

FAMILIES: Final = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
BACKLOG: Final = 2_048
_PORTS: Final = range(65_536)
_START_AND_STOP_TIMEOUT: Final = 10.0
_STEPS_OF_ACCEPTING: Final = 3  # asyncio's task for the connection starts, makes the transport, calls connection_made


class LoopbackServer(ABC):
    """Listen on a port between `start` and `close`, or between entering and leaving a `with` block."""

    _kind: ClassVar[str]
    _entered_as: ClassVar[str]

    def __init__(self, host: str, port: int) -> None:
        if port not in _PORTS:
            msg = f"a port is a number from 0 (any free one) to 65535, not {port!r:.80}"
            raise UsageError(msg)
        self._address = (host, port)
        self._port: int | None = None
        self._thread: Thread | None = None
        self._stop: Callable[[], object] | None = None

    @property
    def port(self) -> int:
        """Return the port on which the server listens. Raises UsageError while the server does not run."""
        if self._port is None:
            msg = f"this {self._kind} does not run: write `{self._entered_as}` or call start() first"
            raise UsageError(msg)
        return self._port

    def start(self) -> None:
        """Listen; once this returns, connections are accepted. Raises UsageError if the port is not available."""
        if self._thread is not None:
            msg = f"this {self._kind} runs already"
            raise UsageError(msg)
        listener = _listen(*self._address)
        ready: Future[Callable[[], object]] = Future()
        self._thread = Thread(target=self._run, args=(listener, ready), name=type(self).__name__, daemon=True)
        self._thread.start()
        self._stop = ready.result(_START_AND_STOP_TIMEOUT)
        self._port = listener.getsockname()[1]

    def close(self) -> None:
        """End all connections at once. Closing twice is allowed."""
        if self._thread is not None and self._stop is not None:
            self._stop()
            self._thread.join(_START_AND_STOP_TIMEOUT)
        self._thread = self._stop = self._port = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    async def _serve(self, listener: socket.socket, closing: asyncio.Event, listening: Callable[[], None]) -> None:
        """Accept connections, call `listening`, and end all connections once `closing` is set."""

    def _run(self, listener: socket.socket, ready: Future[Callable[[], object]]) -> None:
        async def serve() -> None:
            closing = asyncio.Event()
            stop = partial(asyncio.get_running_loop().call_soon_threadsafe, closing.set)
            await self._serve(listener, closing, partial(ready.set_result, stop))

        try:
            # asyncio's own loop: the program's policy may name another one, and the chaos proxy needs the sockets
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)


async def stop_accepting(server: asyncio.Server) -> None:
    """Accept no more, let the loop hand each accepted connection to its protocol, and close the listener.

    In this order: asyncio drops a connection, without closing its socket, that it hands over after `server.close()`.
    """
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener)
    for _ in range(_STEPS_OF_ACCEPTING):
        await asyncio.sleep(0)
    server.close()


def _listen(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only if the protocol is named, which socket.create_server does not
    listener = socket.socket(FAMILIES[host], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        msg = f"cannot listen on port {port} of {host}: {error.strerror}; name another port, or 0 for any free one"
    else:
        return listener
    raise UsageError(msg)
