"""The fake service over real HTTP on loopback, in a thread of its own.

uvicorn's `Server` is not used: it polls, configures logging for the whole process and takes a third of a second to
stop. Only its protocol class is used.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn import Config
from uvicorn.server import ServerState

from tgmembership_async.errors import UsageError
from tgmembership_async.testing.fake.asgi import Application, Connection
from tgmembership_async.testing.fake.deliveries import Postal, deliver_until, probe_webhook
from tgmembership_async.testing.fake.service import FakeService
from tgmembership_async.testing.fake.v2.service import FakeProject
from tgmembership_async.testing.loopback import BACKLOG, FAMILIES, LoopbackServer, stop_accepting

_KEEP_ALIVE: Final = 60  # seconds: longer than clients keep a connection, so that the client closes it


class FakeServer(LoopbackServer):
    """Serve a `FakeService` or a `FakeProject` between entering and leaving.

    `with serve(service) as server: ... server.url`.
    While the server runs, the service's events are delivered to its webhook as `postal` says. Requests that have
    arrived completely still take effect when the server is closed. Raises UsageError for another host than loopback.
    """

    _kind = "fake server"
    _entered_as = "with serve(service) as server:"

    def __init__(
        self,
        service: FakeService | FakeProject,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        postal: Postal | None = None,
    ) -> None:
        self.service: Any = service  # a FakeService or a FakeProject, as it was passed
        self._postal = postal
        self.host: str = "127.0.0.1" if host == "localhost" else host
        if self.host not in FAMILIES:
            msg = f"the fake service listens on loopback only: 127.0.0.1, ::1 or localhost, not {host!r:.80}"
            raise UsageError(msg)
        super().__init__(self.host, port)

    def __repr__(self) -> str:
        return f"<FakeServer at {self.url}>" if self._port is not None else "<FakeServer, not running>"

    @property
    def url(self) -> str:
        """Return `http://host:port`, the `base_url` of a Session."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Return `url`, under the name of the Session's parameter."""
        return self.url

    def session_options(self) -> dict[str, Any]:
        """Return options that connect a client to this server: `Session(**server.session_options())`."""
        return {**self.service.session_options(), "base_url": self.url, "proxy": None}

    def env(self, prefix: str = "TGMEMBERSHIP_") -> dict[str, str]:
        """Return the environment variables that connect `from_env()` of a client to this server."""
        return {f"{prefix}{name}": value for name, value in self.service.environment(self.url).items()}

    async def _serve(self, listener: socket.socket, closing: asyncio.Event, listening: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        state = ServerState()
        config = Config(
            Application(self.service, closing, partial(probe_webhook, self.service)),
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
        server = await loop.create_server(lambda: Connection(config, state, {}, loop), sock=listener, backlog=BACKLOG)
        listening()
        await deliver_until(closing, self.service, self._postal)
        await stop_accepting(server)
        while state.connections or state.tasks:
            for connection in list(state.connections):
                connection.transport.abort()
            await (asyncio.wait(state.tasks) if state.tasks else asyncio.sleep(0))
