"""One client connection of a `ChaosProxy`: forward whole requests and replies, and inject faults between them."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

from tgmembership_async.testing.chaos.http_messages import Message, read_reply, read_request
from tgmembership_async.testing.chaos.sockets import SocketStream
from tgmembership_async.testing.chaos.troubles import Incident, Point, Trouble
from tgmembership_async.testing.fake.http import method_of

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectionEnded(Exception):
    """A fault has ended the connection."""


@frozen
class Route:
    """The upstream of a proxy, and the TLS contexts for its clients and for the upstream, None without TLS."""

    host: str
    port: int
    tls_front: ssl.SSLContext | None = None
    tls_back: ssl.SSLContext | None = None


class ProxyConnection:
    """Serve one client connection. Reading is paused until the faults at `connect` have taken place."""

    def __init__(
        self,
        number: int,
        client: SocketStream,
        route: Route,
        draw: Callable[[Point, str], tuple[Trouble, ...]],
        record: Callable[[Incident], None],
    ) -> None:
        self.client = client
        self.muted = False
        self._number = number
        self._route = route
        self._draw = draw
        self._record = record
        self._upstream: SocketStream | None = None
        self._request = 0
        self._method = ""

    async def run(self) -> None:
        """Forward until either side or a fault ends the connection. If the upstream fails, the client gets RST."""
        try:
            await self._inject("connect", bytearray())
            await self._accept_client()
            while (request := await self._next_request()) is not None:
                await self._forward(request)
            await self.client.close()
        except ConnectionEnded:
            pass
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            self.client.reset()
        finally:
            self.client.abort()
            if self._upstream is not None:
                self._upstream.abort()

    async def wait_for_reply(self, when: Point) -> None:
        """Wait for the reply of an upstream that has the request, so that the upstream can finish it."""
        if when == "sent" and self._upstream is not None:
            with suppress(OSError, EOFError):
                await read_reply(self._upstream.reader, "", bytearray())

    async def send_to_client(self, part: bytearray) -> None:
        """Write to the client, unless its half of the connection was closed by a fault."""
        if not self.muted:
            await self.client.write(part)

    async def _inject(self, when: Point, reply: bytearray) -> None:
        """Inject the faults drawn for this point. Bytes that a fault has sent are removed from `reply`."""
        faults = self._draw(when, self._method)
        for trouble in sorted(faults, key=lambda one: one.kind != "latency"):
            destroyed = trouble.destroys(reply) and self._method != "CONNECT"
            self._record(Incident(self._number, self._request, self._method, trouble, destroyed))
            await _ACTIONS[trouble.kind](self, trouble, reply)

    async def _accept_client(self) -> None:
        if self._route.tls_front is None:
            self.client.resume()
        else:
            await self.client.start_tls(self._route.tls_front)

    async def _next_request(self) -> Message | None:
        """Return the client's next request, or None if either side closes the idle connection."""
        if self._upstream is None:
            return await read_request(self.client.reader)
        requested = asyncio.ensure_future(read_request(self.client.reader))
        upstream_closed = asyncio.ensure_future(self._upstream.reader.read(1))
        try:
            await asyncio.wait({requested, upstream_closed}, return_when=asyncio.FIRST_COMPLETED)
            return None if upstream_closed.done() else requested.result()
        finally:
            await _cancel(requested, upstream_closed)

    async def _forward(self, request: Message) -> None:
        self._request += 1
        self._method = request.verb if request.verb == "CONNECT" else method_of(request.target)
        reply = bytearray()
        await self._inject("request", reply)
        if request.verb == "CONNECT":
            await self._tunnel()
        upstream = await self._connect(self._route.tls_back)
        await upstream.write(request.raw)
        await self._inject("sent", reply)
        try:
            await read_reply(upstream.reader, request.verb, reply)
        except EOFError:
            await self.send_to_client(reply)
            self.client.fin()
            raise ConnectionEnded from None
        await self._inject("reply", reply)
        await self.send_to_client(reply)

    async def _connect(self, tls: ssl.SSLContext | None) -> SocketStream:
        if self._upstream is None:
            name = self._route.host if tls is not None else None
            reader, writer = await asyncio.open_connection(
                self._route.host, self._route.port, ssl=tls, server_hostname=name
            )
            self._upstream = SocketStream(reader, writer)
        return self._upstream

    async def _tunnel(self) -> None:
        """Forward bytes between client and upstream in both directions, whatever host the client named."""
        upstream = await self._connect(None)
        reply = bytearray(_ESTABLISHED)
        await self._inject("reply", reply)
        await self.send_to_client(reply)
        up = asyncio.ensure_future(self.client.copy_to(upstream))
        down = asyncio.ensure_future(upstream.copy_to(self.client))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
            for way in done:
                way.result()
        finally:
            await _cancel(up, down)
        await self.client.close()
        raise ConnectionEnded


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _delay(_: ProxyConnection, trouble: Trouble, __: bytearray) -> None:
    await asyncio.sleep(trouble.seconds)


async def _reset(connection: ProxyConnection, trouble: Trouble, _: bytearray) -> None:
    connection.client.reset()
    await connection.wait_for_reply(trouble.when)
    raise ConnectionEnded


async def _fin(connection: ProxyConnection, trouble: Trouble, _: bytearray) -> None:
    connection.client.fin()
    await _discard_input(connection, trouble.when)


async def _black_hole(connection: ProxyConnection, trouble: Trouble, _: bytearray) -> None:
    await _discard_input(connection, trouble.when)


async def _discard_input(connection: ProxyConnection, when: Point) -> None:
    connection.client.resume()
    await connection.wait_for_reply(when)
    await connection.client.discard()
    raise ConnectionEnded


async def _stall(_: ProxyConnection, __: Trouble, ___: bytearray) -> None:
    await asyncio.Event().wait()


async def _half_close(connection: ProxyConnection, _: Trouble, __: bytearray) -> None:
    connection.client.fin()
    connection.muted = True


async def _cut(connection: ProxyConnection, trouble: Trouble, reply: bytearray) -> None:
    await connection.send_to_client(reply[: trouble.size])
    connection.client.fin()
    await _discard_input(connection, trouble.when)


async def _dribble(connection: ProxyConnection, trouble: Trouble, reply: bytearray) -> None:
    while reply:
        await connection.send_to_client(reply[:1])
        del reply[:1]
        await asyncio.sleep(trouble.seconds)


_ACTIONS: Final[Mapping[str, Callable[[ProxyConnection, Trouble, bytearray], Awaitable[None]]]] = {
    "latency": _delay,
    "reset": _reset,
    "fin": _fin,
    "black_hole": _black_hole,
    "stall": _stall,
    "half_close": _half_close,
    "cut": _cut,
    "dribble": _dribble,
}
