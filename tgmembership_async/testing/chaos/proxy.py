"""A proxy on loopback that injects network faults: latency, resets, cut replies, silence, half-closed connections."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from urllib.parse import urlsplit

from tgmembership_async.errors import UsageError
from tgmembership_async.renamed import warn_renamed
from tgmembership_async.testing.chaos.connection import ProxyConnection, Route
from tgmembership_async.testing.chaos.sockets import SocketStream
from tgmembership_async.testing.chaos.troubles import POINTS, Incident, Point, Trouble
from tgmembership_async.testing.loopback import BACKLOG, LoopbackServer, stop_accepting
from tgmembership_async.testing.rules import Rulebook


class ChaosProxy(LoopbackServer):
    """Forward requests to an upstream and inject faults by `rules`: `with ChaosProxy(url, [...]) as proxy`.

    `upstream` is a URL, or a port of this machine. HTTP/1.1 is forwarded in whole requests and whole replies, byte for
    byte. Each client connection has its own connection to the upstream. A client that sends CONNECT gets a tunnel to
    the upstream, whatever host it named. `tls_front` is the TLS context for clients, `tls_back` the one for the
    upstream (by default a new one if the URL is https). Raises UsageError for a wrong argument, and on entering if the
    port is not available.
    """

    _kind = "proxy"
    _entered_as = "with ChaosProxy(...) as proxy:"

    def __init__(
        self,
        upstream: str | int,
        rules: Iterable[Trouble] = (),
        *,
        seed: int = 0,
        port: int = 0,
        tls_front: ssl.SSLContext | None = None,
        tls_back: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__("127.0.0.1", port)
        self._route = _route(upstream, tls_front, tls_back)
        self._books = {when: Rulebook[Trouble](f"{seed}/{when}") for when in POINTS}
        self._lock = Lock()
        self._incidents: list[Incident] = []
        self._connections = 0
        self.inject(*rules)

    def __repr__(self) -> str:
        where = self.url if self._port is not None else "not running"
        return f"<ChaosProxy to {self._route.host}:{self._route.port}, {where}>"

    @property
    def url(self) -> str:
        """Return `http://127.0.0.1:port` (https with `tls_front`), the `base_url` or `proxy` of a Session."""
        return f"{'http' if self._route.tls_front is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Return the number of accepted connections."""
        return self._connections

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Return the injected faults in order. Each one is recorded before it takes place."""
        return tuple(self._incidents)

    @property
    def replies_destroyed(self) -> int:
        """Return the number of requests that reached the upstream and whose whole reply did not reach the client."""
        return sum(incident.reply_destroyed for incident in self.incidents)

    def inject(self, *rules: Trouble) -> None:
        """Add rules."""
        with self._lock:
            for rule in rules:
                self._books[rule.when].add([rule])

    def clear_faults(self) -> None:
        """Remove all rules. Faults that have begun continue."""
        with self._lock:
            for book in self._books.values():
                book.clear()

    def heal(self) -> None:
        """Call `clear_faults`, under its former name."""
        warn_renamed("heal", "clear_faults")
        self.clear_faults()

    async def _serve(self, listener: socket.socket, closing: asyncio.Event, listening: Callable[[], None]) -> None:
        connections: set[asyncio.Task[None]] = set()
        accept = partial(self._accept, connections, closing)
        server = await asyncio.start_server(accept, sock=listener, backlog=BACKLOG)
        listening()
        await closing.wait()
        await stop_accepting(server)
        while connections:
            for connection in connections:
                connection.cancel()
            await asyncio.wait(connections)

    def _accept(
        self,
        connections: set[asyncio.Task[None]],
        closing: asyncio.Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        client = SocketStream(reader, writer)
        if closing.is_set():
            client.abort()
            return
        # Before the loop reads: a fault may come first, and the first bytes may be a TLS handshake.
        client.pause()
        self._connections += 1
        connection = ProxyConnection(self._connections, client, self._route, self._draw, self._incidents.append)
        task = asyncio.ensure_future(connection.run())
        connections.add(task)
        task.add_done_callback(connections.discard)

    def _draw(self, when: Point, method: str) -> tuple[Trouble, ...]:
        with self._lock:
            return self._books[when].draw(method)


def _route(upstream: object, tls_front: ssl.SSLContext | None, tls_back: ssl.SSLContext | None) -> Route:
    if isinstance(upstream, int):
        upstream = f"http://127.0.0.1:{upstream}"
    try:
        parts = urlsplit(upstream) if isinstance(upstream, str) else None
        port = None if parts is None else parts.port
    except ValueError:
        parts = port = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        msg = "upstream must be a URL like http://127.0.0.1:8000, or a port"
        raise UsageError(msg)
    if parts.scheme == "https" and tls_back is None:
        tls_back = ssl.create_default_context()
    usual = 443 if parts.scheme == "https" else 80
    return Route(parts.hostname, usual if port is None else port, tls_front, tls_back)
