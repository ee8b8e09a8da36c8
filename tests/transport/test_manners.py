"""Transports ignore cookies, redirects and unsolicited data, and keep proxy credentials to the proxy."""

import base64
import contextlib
import os
import socket
import ssl
import threading
import time
from typing import Any

import anyio
import pytest
from attrs import evolve
from canary import CANARY_KEY, CANARY_SECRET
from scripted_server import answering

from tgmembership_async import (
    Headers,
    OutcomeUnknown,
    ReplyLost,
    Request,
    Response,
    RetryPolicy,
    UnexpectedReply,
    UsageError,
)

AUTHORIZATION = b"proxy-authorization: Basic " + base64.b64encode(f"user:{CANARY_SECRET}".encode())
ONCE = RetryPolicy(attempts=1)


def test_headers_of_a_middleware_are_sent_once_and_framing_headers_refused(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering())

    def adding(*pairs: tuple[str, str]) -> Any:
        async def middleware(request: Request, call_next: Any) -> Response:
            answer: Response = await call_next(evolve(request, headers=Headers((*request.headers, *pairs))))
            return answer

        return middleware

    async def scenario() -> None:
        async with session(server.url, middleware=[adding(("Host", "gate.example"), ("x-note", "caf\xe9"))]) as tg:
            await tg.add_member(1, 42)
        for name in ("Content-Length", "transfer-encoding"):
            async with session(server.url, attempt_middleware=[adding((name, "1"))]) as tg:
                with pytest.raises(UsageError, match=name):
                    await tg.add_member(1, 42)

    run(scenario)
    [sent] = server.requests
    assert sent.lower().count(b"\r\nhost: gate.example\r\n") == sent.lower().count(b"\r\nhost:") == 1
    assert b"\r\nx-note: caf\xe9\r\n" in sent
    assert sent.lower().count(b"\r\ncontent-length:") == 1


def test_nothing_is_sent_twice_where_the_service_hangs_up(serve: Any, run: Any, session: Any) -> None:
    def second_one_is_dropped(connection: Any) -> None:
        connection.request()
        connection.answer()
        connection.request()

    server = serve(second_one_is_dropped)

    async def scenario() -> None:
        async with session(server.url, retry=ONCE) as tg:
            for call in (tg.get_plans, tg.delete_webhook):
                await tg.get_plans()
                with pytest.raises(ReplyLost):
                    await call()

    run(scenario)
    assert len(server.requests) == 4
    assert server.connections == 2


def test_a_close_that_the_loop_has_not_processed_is_detected(serve: Any, run: Any, session: Any) -> None:
    closed = threading.Event()

    def one_each(connection: Any) -> None:
        connection.request()
        connection.answer()
        connection.sock.close()
        closed.set()

    server = serve(one_each)

    async def scenario() -> None:
        async with session(server.url) as tg:
            await tg.get_plans()
            closed.wait(5)
            time.sleep(0.02)  # noqa: ASYNC251 - nothing runs meanwhile: that is the point
            assert (await tg.add_member(1, 42)).raw == []

    run(scenario)
    assert server.connections == 2


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_an_unsolicited_reply_is_discarded(
    later: bool,  # noqa: FBT001 - a parameter of pytest's
    serve: Any,
    run: Any,
    session: Any,
) -> None:
    sent = threading.Event()

    def answers_twice(connection: Any) -> None:
        while connection.request():
            connection.answer()
            if later:
                time.sleep(0.02)
            connection.answer(body={"ok": True, "code": 200, "result": "SOMEBODY ELSE'S"})
            sent.set()

    server = serve(answers_twice)

    async def scenario() -> None:
        async with session(server.url, retry=ONCE) as tg:
            await tg.get_plans()
            await anyio.to_thread.run_sync(sent.wait, 30)
            await anyio.sleep(0.01)
            assert (await tg.add_member(1, 42)).raw == []

    run(scenario)
    assert server.connections == 2


def test_no_cookie_comes_back(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(set_cookie="session=1; Path=/"))

    async def scenario() -> None:
        async with session(server.url) as tg:
            await tg.get_plans()
            await tg.get_plans()

    run(scenario)
    assert not any(b"cookie" in request.lower() for request in server.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, serve: Any, run: Any, session: Any) -> None:
    elsewhere = serve(answering())
    echo = f"{elsewhere.url}/bot8047883872/{CANARY_KEY}/getPlans"
    server = serve(answering(status, b"", location=echo))

    async def scenario() -> None:
        async with session(server.url, retry=ONCE) as tg:
            with pytest.raises(UnexpectedReply, match=str(status)):
                await tg.get_plans()

    run(scenario)
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nnot a chunk\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["bad-chunk", "half-a-chunk", "two-lengths", "upgrade", "endless-header"],
)
def test_broken_http_proves_nothing(reply: bytes, serve: Any, run: Any, session: Any) -> None:
    def broken(connection: Any) -> None:
        connection.request()
        connection.send(reply)

    server = serve(broken)

    async def scenario() -> None:
        async with session(server.url, grant_timeout=1) as tg:
            with pytest.raises(OutcomeUnknown):
                await tg.add_member(1, 42)

    run(scenario)
    assert server.connections == 1


def test_an_unexpected_100_continue_is_skipped(serve: Any, run: Any, session: Any) -> None:
    def early(connection: Any) -> None:
        while connection.request():
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
            connection.answer()

    server = serve(early)

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert (await tg.add_member(1, 42)).raw == []
            assert await tg.get_plans() == []

    run(scenario)
    assert server.connections == 1


def test_a_proxys_password_goes_to_the_proxy_alone(
    serve: Any, run: Any, session: Any, way: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    def tunnel(connection: Any) -> None:
        line = connection.request().split(b" ")
        host, port = line[1].split(b":")
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.pipe(host.decode(), int(port))

    server, proxy = serve(answering(), server_tls), serve(tunnel)

    async def scenario() -> None:
        transport = way(proxy=f"http://user:{CANARY_SECRET}@127.0.0.1:{proxy.port}", ssl_context=client_tls)
        async with session(server.url, transport=transport) as tg:
            await tg.get_plans()

    run(scenario)
    assert AUTHORIZATION.lower() in proxy.requests[0].lower()
    assert b"authorization" not in server.requests[0].lower()
    assert CANARY_KEY.encode() not in proxy.requests[0]


def test_a_proxy_may_speak_tls(
    serve: Any, run: Any, session: Any, way: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """TLS to the service runs inside TLS to the proxy."""

    def tunnel(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = server_tls.wrap_bio(incoming, outgoing, server_side=True)
        while b"\r\n\r\n" not in _decrypted(inner, incoming, outgoing, connection):
            continue
        inner.write(b"HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n" + b'{"ok":true,"code":200,"result":[]}  ')
        connection.send(outgoing.read())

    proxy = serve(tunnel, server_tls)

    async def scenario() -> None:
        async with session("https://127.0.0.1:9", transport=way(proxy=proxy.url, ssl_context=client_tls)) as tg:
            assert await tg.get_plans() == []

    run(scenario)
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:9 ")


def _decrypted(inner: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, connection: Any) -> bytes:
    """Receive data once, and return its plain text, which is empty for the handshake."""
    incoming.write(connection.sock.recv(65536))
    found = b""
    with contextlib.suppress(ssl.SSLWantReadError):
        inner.do_handshake()
        found = inner.read(65536)
    connection.send(outgoing.read())
    return found


def test_a_connection_that_is_thrown_away_is_closed_at_once(
    serve: Any, run: Any, session: Any, way: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    gone = threading.Event()

    def hangs(connection: Any) -> None:
        connection.request()
        with socket.socket(fileno=os.dup(connection.sock.fileno())) as sock:  # below TLS: without close_notify
            sock.settimeout(5)
            while sock.recv(65536):
                pass
        gone.set()

    server = serve(hangs, server_tls)

    async def scenario() -> None:
        transport = way(ssl_context=client_tls)
        async with session(server.url, transport=transport, read_timeout=0.1, retry=ONCE) as tg:
            with pytest.raises(ReplyLost):
                await tg.get_plans()
            assert await anyio.to_thread.run_sync(gone.wait, 5)

    run(scenario)
