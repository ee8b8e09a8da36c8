"""One connection through a `ChaosProxy`: whole requests go up, whole replies come down, troubles strike in between."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

from tgmembership_async.testing.chaos.http_messages import Message, read_reply, read_request
from tgmembership_async.testing.chaos.sockets import Leg
from tgmembership_async.testing.chaos.troubles import Incident, Point, Trouble
from tgmembership_async.testing.fake.http import method_of

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Ended(Exception):
    """A trouble has ended the connection."""


@frozen
class Route:
    """Where a proxy leads, and who speaks TLS on the way there."""

    host: str
    port: int
    tls_front: ssl.SSLContext | None = None
    tls_back: ssl.SSLContext | None = None


class Relay:
    """Serve one connection of a client, whose reading is paused until the connection has met its troubles."""

    def __init__(
        self,
        number: int,
        client: Leg,
        route: Route,
        draw: Callable[[Point, str], tuple[Trouble, ...]],
        note: Callable[[Incident], None],
    ) -> None:
        self.client = client
        self.deaf = False
        self._number = number
        self._route = route
        self._draw = draw
        self._note = note
        self._upstream: Leg | None = None
        self._request = 0
        self._method = ""

    async def run(self) -> None:
        """Relay until either side ends or a trouble ends it; a failure on one side becomes RST on the other."""
        try:
            await self._strike("connect", bytearray())
            await self._front()
            while (request := await self._next_request()) is not None:
                await self._relay(request)
            await self.client.close()
        except Ended:
            pass
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            self.client.reset()
        finally:
            self.client.abort()
            if self._upstream is not None:
                self._upstream.abort()

    async def hear_out(self, when: Point) -> None:
        """Wait for the answer of an upstream that has the request, so that it is not disturbed in what it does."""
        if when == "sent" and self._upstream is not None:
            with suppress(OSError, EOFError):
                await read_reply(self._upstream.reader, "", bytearray())

    async def pass_on(self, part: bytearray) -> None:
        """Write to the client, unless it was told that nothing comes."""
        if not self.deaf:
            await self.client.write(part)

    async def _strike(self, when: Point, reply: bytearray) -> None:
        """Let what is due here happen; `reply` loses what a trouble has passed on already."""
        struck = self._draw(when, self._method)
        for trouble in sorted(struck, key=lambda one: one.kind != "latency"):
            destroyed = trouble.destroys(reply) and self._method != "CONNECT"
            self._note(Incident(self._number, self._request, self._method, trouble, destroyed))
            await _ACTIONS[trouble.kind](self, trouble, reply)

    async def _front(self) -> None:
        if self._route.tls_front is None:
            self.client.resume()
        else:
            await self.client.start_tls(self._route.tls_front)

    async def _next_request(self) -> Message | None:
        """Return the client's next request, or None if it has none or the upstream closes the idle connection."""
        if self._upstream is None:
            return await read_request(self.client.reader)
        asked = asyncio.ensure_future(read_request(self.client.reader))
        gone = asyncio.ensure_future(self._upstream.reader.read(1))
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            return None if gone.done() else asked.result()
        finally:
            await _let_go(asked, gone)

    async def _relay(self, request: Message) -> None:
        self._request += 1
        self._method = request.verb if request.verb == "CONNECT" else method_of(request.target)
        reply = bytearray()
        await self._strike("request", reply)
        if request.verb == "CONNECT":
            await self._tunnel()
        upstream = await self._reach(self._route.tls_back)
        await upstream.write(request.raw)
        await self._strike("sent", reply)
        try:
            await read_reply(upstream.reader, request.verb, reply)
        except EOFError:
            await self.pass_on(reply)
            self.client.fin()
            raise Ended from None
        await self._strike("reply", reply)
        await self.pass_on(reply)

    async def _reach(self, tls: ssl.SSLContext | None) -> Leg:
        if self._upstream is None:
            name = self._route.host if tls is not None else None
            reader, writer = await asyncio.open_connection(
                self._route.host, self._route.port, ssl=tls, server_hostname=name
            )
            self._upstream = Leg(reader, writer)
        return self._upstream

    async def _tunnel(self) -> None:
        """Become a blind tunnel to the upstream, whatever place the client named."""
        upstream = await self._reach(None)
        reply = bytearray(_ESTABLISHED)
        await self._strike("reply", reply)
        await self.pass_on(reply)
        up = asyncio.ensure_future(self.client.pour_into(upstream))
        down = asyncio.ensure_future(upstream.pour_into(self.client))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
            for way in done:
                way.result()
        finally:
            await _let_go(up, down)
        await self.client.close()
        raise Ended


async def _let_go(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(_: Relay, trouble: Trouble, __: bytearray) -> None:
    await asyncio.sleep(trouble.seconds)


async def _reset(relay: Relay, trouble: Trouble, _: bytearray) -> None:
    relay.client.reset()
    await relay.hear_out(trouble.when)
    raise Ended


async def _fin(relay: Relay, trouble: Trouble, _: bytearray) -> None:
    relay.client.fin()
    await _swallow(relay, trouble.when)


async def _black_hole(relay: Relay, trouble: Trouble, _: bytearray) -> None:
    await _swallow(relay, trouble.when)


async def _swallow(relay: Relay, when: Point) -> None:
    relay.client.resume()
    await relay.hear_out(when)
    await relay.client.discard()
    raise Ended


async def _stall(_: Relay, __: Trouble, ___: bytearray) -> None:
    await asyncio.Event().wait()


async def _half_close(relay: Relay, _: Trouble, __: bytearray) -> None:
    relay.client.fin()
    relay.deaf = True


async def _cut(relay: Relay, trouble: Trouble, reply: bytearray) -> None:
    await relay.pass_on(reply[: trouble.size])
    relay.client.fin()
    await _swallow(relay, trouble.when)


async def _dribble(relay: Relay, trouble: Trouble, reply: bytearray) -> None:
    while reply:
        await relay.pass_on(reply[:1])
        del reply[:1]
        await asyncio.sleep(trouble.seconds)


_ACTIONS: Final[Mapping[str, Callable[[Relay, Trouble, bytearray], Awaitable[None]]]] = {
    "latency": _wait,
    "reset": _reset,
    "fin": _fin,
    "black_hole": _black_hole,
    "stall": _stall,
    "half_close": _half_close,
    "cut": _cut,
    "dribble": _dribble,
}
