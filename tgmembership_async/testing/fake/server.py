"""The fake service over real HTTP on loopback, on a thread of its own.

uvicorn's `Server` is left out on purpose: it polls, logs to the whole process and takes a third of a second to end. Its
protocol class alone needs none of that.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from uvicorn import Config
from uvicorn.server import ServerState

from tgmembership_async.errors import UsageError
from tgmembership_async.testing.fake.asgi import Application, Connection
from tgmembership_async.testing.fake.deliveries import Postal, deliver_until, probe_webhook
from tgmembership_async.testing.fake.service import FakeService

_FAMILIES: Final = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
_PORTS: Final = range(65_536)
_BACKLOG: Final = 2_048
_KEEP_ALIVE: Final = 60  # seconds: longer than clients keep a connection, so that it is they who end it
_PATIENCE: Final = 10.0


class FakeServer:
    """Serve a `FakeService` between entering and leaving: `with serve(service) as server: ... server.url`.

    What the service has to tell its webhook is delivered meanwhile, as `postal` says.
    """

    def __init__(
        self, service: FakeService, *, host: str = "127.0.0.1", port: int = 0, postal: Postal | None = None
    ) -> None:
        self.service = service
        self._postal = postal
        self.host: str = "127.0.0.1" if host == "localhost" else host
        if self.host not in _FAMILIES:
            msg = f"the fake service listens on loopback only: 127.0.0.1, ::1 or localhost, not {host!r:.80}"
            raise UsageError(msg)
        if port not in _PORTS:
            msg = f"a port is a number from 0 (any free one) to 65535, not {port!r:.80}"
            raise UsageError(msg)
        self._wanted_port = port
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<FakeServer at {self.url}>" if self._port is not None else "<FakeServer, not running>"

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        if self._port is None:
            msg = "this fake server does not run: write `with serve(service) as server:` or call start() first"
            raise UsageError(msg)
        return self._port

    @property
    def url(self) -> str:
        """Return `http://host:port`, as a Session takes it for `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Return `url`, by the name that a Session has for it."""
        return self.url

    def session_options(self) -> dict[str, Any]:
        """Return what points a Session here, past any proxy: `Session(**server.session_options())`."""
        return {**self.service.session_options(), "base_url": self.url, "proxy": None}

    def env(self, prefix: str = "TGMEMBERSHIP_") -> dict[str, str]:
        """Return the environment variables that point `Session.from_env()` here."""
        return {
            f"{prefix}BOT_ID": str(self.service.bot_id),
            f"{prefix}API_KEY": self.service.api_key.reveal(),
            f"{prefix}BASE_URL": self.url,
        }

    def start(self) -> None:
        """Listen; once this returns, requests are answered."""
        if self._thread is not None:
            msg = "this fake server runs already"
            raise UsageError(msg)
        listener = _listen(self.host, self._wanted_port)
        ready: Future[Callable[[], object]] = Future()
        work = partial(_serve, self.service, listener, ready, self._postal)
        self._thread = threading.Thread(target=_run, args=(work, ready), name="fake", daemon=True)
        self._thread.start()
        self._stop = ready.result(_PATIENCE)
        self._port = listener.getsockname()[1]

    def close(self) -> None:
        """End all connections at once. What has arrived whole is still carried out. Closing twice is fine."""
        if self._thread is not None and self._stop is not None:
            self._stop()
            self._thread.join(_PATIENCE)
        self._thread = self._stop = self._port = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _listen(host: str, port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named, which socket.create_server does not
    listener = socket.socket(_FAMILIES[host], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        msg = f"cannot listen on port {port} of {host}: {error.strerror}; name another port, or 0 for any free one"
    else:
        return listener
    raise UsageError(msg)


def _run(work: Callable[[], Coroutine[Any, Any, None]], ready: Future[Callable[[], object]]) -> None:
    try:
        asyncio.run(work())
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


async def _serve(
    service: FakeService, listener: socket.socket, ready: Future[Callable[[], object]], postal: Postal | None
) -> None:
    loop = asyncio.get_running_loop()
    closing = asyncio.Event()
    state = ServerState()
    config = Config(
        Application(service, closing, partial(probe_webhook, service)),
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    config.load()
    server = await loop.create_server(lambda: Connection(config, state, {}, loop), sock=listener, backlog=_BACKLOG)
    ready.set_result(partial(loop.call_soon_threadsafe, closing.set))
    await deliver_until(closing, service, postal)
    server.close()
    while state.connections or state.tasks:  # a connection that was being accepted turns up now
        for connection in list(state.connections):
            connection.transport.abort()
        await (asyncio.wait(state.tasks) if state.tasks else asyncio.sleep(0))
