"""The TCP connection on asyncio: Happy Eyeballs, its end, and flow control."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from scripted_server import reset

from tgmembership_async.transport import tcp

LARGE = b"x" * 4_000_000


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def getaddrinfo(_host: str, port: int, **_: object) -> list[Any]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [(family, 1, 6, "", (address, port)) for family, address in zip(families, addresses, strict=True)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def test_families_take_turns_and_the_newer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "::1", "127.0.0.3")

    assert await tcp._addresses("host", 1) == ["::1", "127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert await tcp._addresses("127.0.0.9", 1) == ["127.0.0.9"]


async def test_an_address_that_refuses_is_passed_over(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda connection: connection.send(b"hello"))
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")

    connection = await tcp.connect("host", server.port, 5)

    assert connection.get_extra_info("peername") == ("127.0.0.1", server.port)
    assert await connection.read(100, 5) == b"hello"
    await connection.aclose()


async def test_an_address_that_is_silent_is_not_waited_for(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", silent_port)) as server:
        resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")
        connection = await tcp.connect("host", silent_port, 5)
        assert connection.get_extra_info("peername") == server.getsockname()
        await connection.aclose()


async def test_no_address_that_answers_is_an_error_that_says_why(
    refused_port: int, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with pytest.raises(OSError, match=r"127\.0\.0\.2.*127\.0\.0\.1"):
        await tcp.connect("host", refused_port, 5)
    resolve_to(monkeypatch, "127.0.0.3", "127.0.0.3")
    with pytest.raises(TimeoutError):
        await tcp.connect("host", silent_port, 0.4)


async def test_the_slower_of_two_connections_is_closed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda connection: connection.request())
    made: list[tcp.Connection] = []
    both = asyncio.Event()
    usual = tcp._connect

    async def both_at_once(address: str, port: int) -> tcp.Connection:
        connection = await usual(address, port)
        made.append(connection)
        if len(made) == 2:
            both.set()
        await both.wait()
        return connection

    monkeypatch.setattr(tcp, "_connect", both_at_once)
    monkeypatch.setattr(tcp, "_NEXT_ADDRESS_AFTER", 0)
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.1")

    winner = await tcp.connect("host", server.port, 5)

    assert len(made) == 2
    assert [connection.is_readable() for connection in made if connection is not winner] == [True], "it is closed"
    assert not winner.is_readable()
    await winner.aclose()


async def test_written_data_is_sent_in_one_piece_by_the_next_read(serve: Any) -> None:
    pieces: list[bytes] = []

    def echo(connection: Any) -> None:
        pieces.append(connection.sock.recv(65536))
        connection.send(b"both")

    connection = await tcp.connect("127.0.0.1", serve(echo).port, 5)
    connection.write(b"head, ")
    connection.write(b"body")
    assert await connection.read(2, 5) == b"bo"
    assert connection.is_readable()
    assert await connection.read(100, 5) == b"th"
    assert pieces == [b"head, body"]
    await connection.aclose()


async def test_eof_is_empty_and_a_reset_is_an_error(serve: Any) -> None:
    ended = await tcp.connect("127.0.0.1", serve(lambda connection: connection.send(b"last")).port, 5)
    assert await ended.read(100, 5) == b"last"
    assert await ended.read(100, 5) == b""
    assert ended.is_readable()
    with pytest.raises(tcp.NothingSentError, match="closed"):
        ended.write(b"too late")

    broken = await tcp.connect("127.0.0.1", serve(reset).port, 5)
    broken.write(b"GET\r\n\r\n")
    with pytest.raises(ConnectionError):
        await broken.read(100, 5)
    for connection in (ended, broken):
        await connection.aclose()


async def test_a_read_timeout_leaves_the_connection_open(serve: Any) -> None:
    server = serve(lambda connection: connection.send(connection.request()))
    connection = await tcp.connect("127.0.0.1", server.port, 5)
    with pytest.raises(TimeoutError, match="no data for"):
        await connection.read(100, 0.01)
    connection.write(b"GET\r\n\r\n")
    assert await connection.read(100, 5) == b"GET\r\n\r\n"
    await connection.aclose()


async def test_receiving_pauses_while_too_much_is_unread(serve: Any) -> None:
    connection = await tcp.connect("127.0.0.1", serve(lambda connection: connection.send(LARGE)).port, 5)
    await until(lambda: connection._is_paused)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(connection._unread) < 2 * tcp._MOST_UNREAD
    received = 0
    while part := await connection.read(65536, 5):
        received += len(part)
    assert received == len(LARGE)
    await connection.aclose()


async def test_data_before_tls_is_refused(serve: Any, client_tls: ssl.SSLContext) -> None:
    connection = await tcp.connect("127.0.0.1", serve(lambda connection: connection.send(b"forged")).port, 5)
    await until(lambda: bool(connection._unread))
    with pytest.raises(ConnectionAbortedError, match="before TLS"):
        await connection.encrypt(client_tls, "127.0.0.1", 5)
    await connection.aclose()


@pytest.mark.parametrize("end", ["reset", "too late", "cancelled"])
async def test_closing_does_not_wait_for_a_handshake_that_did_not_end(
    end: str, serve: Any, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_CLOSE_TIMEOUT", 3600)

    def handshake(connection: Any) -> None:
        connection.sock.recv(1)
        if end == "reset":
            connection.reset()
        connection.sock.recv(65536)

    connection = await tcp.connect("127.0.0.1", serve(handshake).port, 5)
    handshaking = asyncio.create_task(connection.encrypt(client_tls, "127.0.0.1", 0.05 if end == "too late" else 5))
    if end == "cancelled":
        await asyncio.sleep(0.01)
        handshaking.cancel()
    with pytest.raises((OSError, asyncio.CancelledError)):
        await handshaking
    async with asyncio.timeout(5):
        await connection.aclose()
