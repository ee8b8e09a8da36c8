"""Both transports behave on uvloop as on asyncio's event loop."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from scripted_server import answering

from tgmembership_async import OutcomeUnknown, ReplyLost, RetryPolicy

pytest.importorskip("uvloop", reason="uvloop is not installed: it is none for Windows")
pytestmark = pytest.mark.parametrize(
    "crossing", [("httpx", "asyncio"), ("aiohttp", "asyncio")], ids=["httpx", "aiohttp"], indirect=True
)
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def run() -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Run a scenario on uvloop."""

    def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            assert "uvloop" in type(asyncio.get_running_loop()).__module__
            with anyio.fail_after(120):
                await scenario()

        anyio.run(bounded, backend_options={"use_uvloop": True})

    return run


@pytest.mark.parametrize("wire", ["TCP", "TLS", "CONNECT"])
def test_calls_at_once_and_one_after_another(
    wire: str, serve: Any, run: Any, session: Any, way: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server = serve(answering(), None if wire == "TCP" else server_tls)

    def tunnel(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.pipe("127.0.0.1", server.port)

    proxy = serve(tunnel).url if wire == "CONNECT" else None

    async def scenario() -> None:
        async with session(server.url, transport=way(ssl_context=client_tls, proxy=proxy)) as tg:
            for _ in range(3):
                assert await tg.get_plans() == []
                assert (await tg.add_member(1, 42)).raw == []
            async with anyio.create_task_group() as group:
                for _ in range(16):
                    group.start_soon(tg.get_plans)
            assert server.connections <= 8 + 3, "a grant may want a new one"

    run(scenario)


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "TLS"])
def test_cancelled_and_lost_calls_are_reported_and_the_session_works(
    encrypted: bool,  # noqa: FBT001 - a parameter of pytest's
    serve: Any,
    run: Any,
    session: Any,
    way: Any,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    trouble = iter(["hang", "reset", "hang"])

    def troubled(connection: Any) -> None:
        kind = next(trouble, "")
        while connection.request():
            if kind == "hang":
                connection.sock.recv(1)
            elif kind == "reset":
                connection.reset()
                break
            connection.answer()

    server = serve(troubled, server_tls if encrypted else None)

    async def scenario() -> None:
        transport = way(ssl_context=client_tls)
        async with session(server.url, transport=transport, read_timeout=0.2, retry=ONCE) as tg:
            with pytest.raises(ReplyLost):
                await tg.get_plans()
            with pytest.raises(OutcomeUnknown):
                await tg.add_member(1, 42)
            with anyio.move_on_after(0.1) as scope:
                await tg.get_plans()
            assert scope.cancelled_caught
            assert await tg.get_plans() == []

    run(scenario)


def test_an_unsolicited_reply_is_discarded(serve: Any, run: Any, session: Any) -> None:
    sent = threading.Event()

    def answers_twice(connection: Any) -> None:
        while connection.request():
            connection.answer()
            connection.answer(body={"ok": True, "code": 200, "result": "SOMEBODY ELSE'S"})
            sent.set()

    server = serve(answers_twice)

    async def scenario() -> None:
        async with session(server.url, retry=ONCE) as tg:
            await tg.get_plans()
            sent.wait(30)  # blocks the loop, so that it does not notice
            assert (await tg.add_member(1, 42)).raw == []

    run(scenario)
    assert server.connections == 2
