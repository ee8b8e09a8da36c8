"""A proxy on loopback that does to connections what networks do: late, cut, reset, silent, half dead.

It runs in a thread with an event loop of its own, so that it serves sync tests, asyncio, trio and other processes.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from tgmembership_async.errors import UsageError
from tgmembership_async.testing.chaos.connection import Relay, Route
from tgmembership_async.testing.chaos.sockets import Leg
from tgmembership_async.testing.chaos.troubles import POINTS, Incident, Point, Trouble
from tgmembership_async.testing.rules import Rulebook

_BACKLOG: Final = 2_048
_PATIENCE: Final = 10.0


class ChaosProxy:
    """Stand between clients and an upstream, and let go wrong what `rules` say: `with ChaosProxy(url, [...]) as proxy`.

    `upstream` is a URL, or a port of this machine. HTTP/1.1 is passed on in whole requests and whole replies, byte for
    byte, each connection of a client on one of its own to the upstream. A client that takes it for a CONNECT proxy gets
    a blind tunnel to the upstream, whatever place it named. `tls_front` answers clients in TLS, and `tls_back` speaks
    TLS to the upstream (by default if its URL is https). Raises UsageError on a wrong argument, and on entering where
    the port cannot be had.
    """

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
        self._route = _route(upstream, tls_front, tls_back)
        self._books = {when: Rulebook[Trouble](f"{seed}/{when}") for when in POINTS}
        self._lock = threading.Lock()
        self._incidents: list[Incident] = []
        self._connections = 0
        if port not in range(65_536):
            msg = f"a port is a number from 0 (any free one) to 65535, not {port!r:.80}"
            raise UsageError(msg)
        self._wanted_port = port
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] | None = None
        self.inject(*rules)

    def __repr__(self) -> str:
        where = self.url if self._port is not None else "not running"
        return f"<ChaosProxy to {self._route.host}:{self._route.port}, {where}>"

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        if self._port is None:
            msg = "this proxy does not run: write `with ChaosProxy(...) as proxy:` or call start() first"
            raise UsageError(msg)
        return self._port

    @property
    def url(self) -> str:
        """Return `http://127.0.0.1:port` (https with TLS in front), as a Session takes it for `base_url` or `proxy`."""
        return f"{'http' if self._route.tls_front is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Return how many connections it has accepted."""
        return self._connections

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Return what it did to whom, in order; each is noted before it is done."""
        return tuple(self._incidents)

    @property
    def replies_destroyed(self) -> int:
        """Return how many requests it let the upstream have whose whole reply it kept from the client."""
        return sum(incident.reply_destroyed for incident in self.incidents)

    def inject(self, *rules: Trouble) -> None:
        """Let more go wrong from now on."""
        with self._lock:
            for rule in rules:
                self._books[rule.when].add([rule])

    def heal(self) -> None:
        """Let nothing more go wrong; what has struck already takes its course."""
        with self._lock:
            for book in self._books.values():
                book.clear()

    def start(self) -> None:
        """Listen; once this returns, connections are accepted."""
        if self._thread is not None:
            msg = "this proxy runs already"
            raise UsageError(msg)
        ready: Future[tuple[int, Callable[[], object]]] = Future()
        thread = threading.Thread(target=self._run, args=(ready,), name="chaos", daemon=True)
        thread.start()
        try:
            self._port, self._stop = ready.result(_PATIENCE)
        except OSError as error:
            msg = (
                f"cannot listen on port {self._wanted_port}: {error.strerror}; name another port, or 0 for any free one"
            )
        else:
            self._thread = thread
            return
        thread.join(_PATIENCE)
        raise UsageError(msg)

    def close(self) -> None:
        """End all connections at once. Closing twice is fine."""
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

    def _run(self, ready: "Future[tuple[int, Callable[[], object]]]") -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: "Future[tuple[int, Callable[[], object]]]") -> None:
        loop = asyncio.get_running_loop()
        closing = asyncio.Event()
        relays: set[asyncio.Task[None]] = set()
        accept = partial(self._accept, relays, closing)
        server = await asyncio.start_server(accept, "127.0.0.1", self._wanted_port, backlog=_BACKLOG)
        ready.set_result((server.sockets[0].getsockname()[1], partial(loop.call_soon_threadsafe, closing.set)))
        await closing.wait()
        server.close()
        while relays:
            for relay in relays:
                relay.cancel()
            await asyncio.wait(relays)

    def _accept(
        self,
        relays: set[asyncio.Task[None]],
        closing: asyncio.Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        client = Leg(reader, writer)
        if closing.is_set():
            client.abort()
            return
        # At once, before the loop reads: the first bytes may be those of a TLS handshake that a trouble comes before.
        client.pause()
        self._connections += 1
        relay = Relay(self._connections, client, self._route, self._draw, self._incidents.append)
        task = asyncio.ensure_future(relay.run())
        relays.add(task)
        task.add_done_callback(relays.discard)

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
