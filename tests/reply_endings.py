"""How a service may end a reply: it closes the connection in some way, or sends data that nobody asked for."""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

from scripted_server import Connection

CORK: Any = getattr(socket, "TCP_CORK", None)
BODY = b'{"ok": true, "code": 200, "result": "SOMEBODY ELSE\'S"}'
THEIRS = b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)

Ending = Callable[[Connection, Any], None]


def closes_in_words(connection: Connection, body: Any) -> None:
    connection.answer(body=body, connection="close")
    connection.sock.shutdown(socket.SHUT_RDWR)


def speaks_http_1_0(connection: Connection, body: Any) -> None:
    text = json.dumps(body).encode()
    connection.send(b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))


def ends_its_answer_by_closing(connection: Connection, body: Any) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(body).encode())


def closes_without_a_word(connection: Connection, body: Any) -> None:
    connection.answer(body=body)


CLOSING: list[Ending] = [closes_in_words, speaks_http_1_0, ends_its_answer_by_closing, closes_without_a_word]
"""The connection is closed when these have returned."""


def in_one_piece(connection: Any, body: Any, rest: bytes) -> None:
    send = connection.send
    whole: list[bytes] = []
    connection.send = whole.append
    connection.answer(body=body)
    send(b"".join([*whole, rest]))
    del connection.send


def repeats_itself(connection: Connection, body: Any) -> None:
    in_one_piece(connection, body, THEIRS)


def begins_another_answer(connection: Connection, body: Any) -> None:
    in_one_piece(connection, body, THEIRS[:20])


def sends_a_second_record(connection: Connection, body: Any) -> None:
    connection.sock.setsockopt(socket.IPPROTO_TCP, CORK, 1)
    connection.answer(body=body)
    connection.send(THEIRS)
    connection.sock.setsockopt(socket.IPPROTO_TCP, CORK, 0)


def says_that_it_closes(connection: Connection, body: Any) -> None:
    """Send close_notify in one segment with the reply; the TCP connection is closed later."""
    connection.sock.setsockopt(socket.IPPROTO_TCP, CORK, 1)
    connection.answer(body=body)
    if isinstance(connection.sock, ssl.SSLSocket):
        connection.sock.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.sock.unwrap()
    socket.socket.setsockopt(connection.sock, socket.IPPROTO_TCP, CORK, 0)


LEFTOVERS: list[Ending] = [repeats_itself, begins_another_answer, sends_a_second_record, says_that_it_closes]
"""The connection stays open after these; they need Linux, where a program says what goes into one segment."""
