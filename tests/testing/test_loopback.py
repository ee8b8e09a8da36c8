"""A server that stops while a connection is being accepted still closes that connection's socket."""

import asyncio
import socket

import pytest

from tgmembership_async.testing.loopback import stop_accepting


@pytest.mark.parametrize("steps", range(6))
def test_a_connection_that_is_being_accepted_reaches_its_protocol_or_is_never_accepted(steps: int) -> None:
    made: list[asyncio.BaseTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            for _ in range(steps):
                await asyncio.sleep(0)
            await stop_accepting(server)
            for transport in made:
                transport.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(scenario())
    assert bool(made) == (steps > 1)
