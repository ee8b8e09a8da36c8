"""A TCP server whose behaviour is scripted by the test: one function call per connection, in a thread."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

OK_PLANS = {"ok": True, "code": 200, "result": []}


class Connection:
    """One accepted connection, with methods to read requests, answer, and close or reset it."""

    def __init__(self, sock: socket.socket, server: "ScriptedServer") -> None:
        self.sock = sock
        self.server = server

    def request(self) -> bytes:
        """Return the next complete request, or b"" at the end of the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(65536)
            if not part:
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            part = self.sock.recv(65536)
            if not part:
                return b""
            body += part
        whole = head + b"\r\n\r\n" + body
        self.server.requests.append(whole)
        return whole

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int = 200, body: Any = OK_PLANS, **headers: str) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(text)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + text)

    def reset(self) -> None:
        """Reset the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def pipe(self, host: str, port: int) -> None:
        """Forward to another server until both sides have closed."""
        with socket.create_connection((host, port)) as upstream:
            back = threading.Thread(target=_pump, args=(upstream, self.sock), daemon=True)
            back.start()
            _pump(self.sock, upstream)
            back.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


Script = Callable[[Connection], None]


class ScriptedServer:
    """Listen on loopback, and run `script` for each connection in its own thread."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock, self)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection.start_tls(self._tls)
            self.script(connection)
        with contextlib.suppress(OSError):
            connection.sock.close()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(5)
        for thread in self._threads:
            thread.join(5)


def answering(*args: Any, **kwargs: Any) -> Script:
    """Return a script that answers all requests with the same response."""

    def script(connection: Connection) -> None:
        while connection.request():
            connection.answer(*args, **kwargs)

    return script


def drop(connection: Connection) -> None:
    """Close the connection after a request."""
    connection.request()


def reset(connection: Connection) -> None:
    """Reset the connection after a request."""
    connection.request()
    connection.reset()


def cut(connection: Connection) -> None:
    """Begin a response, and end the connection."""
    while connection.request():
        connection.send(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"ok": true, "code": 200')
        connection.sock.shutdown(socket.SHUT_RDWR)
