"""ChaosProxy on real sockets: each trouble at each point, what the client sees of it and what the upstream does."""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import Connection, ScriptedServer, reset
from waiting import wait_for

from tgmembership_async.errors import UsageError
from tgmembership_async.testing import ChaosProxy, FakeService, Trouble, serve
from tgmembership_async.testing.chaos.troubles import WHEN
from tgmembership_async.testing.fake.server import FakeServer

SILENCE = b"(silence)"
RESET = b"(reset)"
REFUSED = b"(no TLS)"


@pytest.fixture
def fake() -> FakeService:
    return FakeService(bot_id=7, api_key="k")


@pytest.fixture
def server(fake: FakeService) -> Iterator[FakeServer]:
    with serve(fake) as running:
        yield running


def grant(member: int = 42) -> bytes:
    body = b'{"plan_id": 1, "member_id": %d}' % member
    head = b"POST /bot7/k/addMember HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


GET = b"GET /bot7/k/getPlans HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = GET.replace(b"host", b"connection: close\r\nhost")


def dial(proxy: ChaosProxy, tls: ssl.SSLContext | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="127.0.0.1")


def heard(sock: socket.socket, *, patience: float = 5) -> bytes:
    """Return what comes until the end of the connection, and how it ends if not by FIN."""
    sock.settimeout(patience)
    data = b""
    try:
        while part := sock.recv(65_536):
            data += part
    except TimeoutError:
        return data + SILENCE
    except ConnectionResetError:
        return data + RESET
    return data


def answer_to(request: bytes, proxy: ChaosProxy, *, patience: float = 5) -> bytes:
    """Return what is heard on a connection of its own, which may be reset while it is still being made."""
    try:
        with dial(proxy) as sock:
            sock.sendall(request)
            return heard(sock, patience=patience)
    except ConnectionError:
        return RESET


def one_reply(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < length:
        body += sock.recv(65_536)
    return head + b"\r\n\r\n" + body


def trouble(kind: Any, when: Any, **rule: Any) -> Trouble:
    seconds = {"latency": 0.05, "dribble": 0.0002}.get(kind, 0.0)
    return Trouble(kind, when=when, seconds=seconds, size=9 if kind == "cut" else 0, **rule)


ALL = [trouble(kind, when) for kind, points in WHEN.items() for when in points]
SEEN = {"reset": RESET, "fin": b"", "half_close": b"", "cut": b"HTTP/1.1 ", "black_hole": SILENCE, "stall": SILENCE}


def patience(rule: Trouble) -> float:
    """Return for how long to listen: not long where silence is what is expected."""
    return 0.1 if SEEN[rule.kind] == SILENCE else 30


REACHES_THE_UPSTREAM = {"latency", "half_close", "dribble", "cut"}


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.label.replace(" ", "-"))
def test_each_trouble_at_each_point(rule: Trouble, server: FakeServer, fake: FakeService) -> None:
    reaches = rule.kind in REACHES_THE_UPSTREAM or rule.when in ("sent", "reply")
    with ChaosProxy(server.url, [rule]) as proxy:
        if rule.kind in SEEN:
            assert answer_to(grant(), proxy, patience=patience(rule)) == SEEN[rule.kind]
        else:
            with dial(proxy) as sock:
                sock.sendall(grant())
                assert one_reply(sock).startswith(b"HTTP/1.1 200")
        wait_for(lambda: len(fake.audit) == reaches)
        [incident] = proxy.incidents
        assert (incident.connection, incident.trouble) == (1, rule)
        assert (incident.request, incident.method) == ((0, "") if rule.when == "connect" else (1, "addMember"))
        assert proxy.replies_destroyed == (reaches and rule.kind in SEEN)
    assert len(fake.audit) == reaches


@pytest.mark.parametrize("kind", ["reset", "fin", "black_hole", "stall"])
def test_with_tls_in_front_a_connection_fails_before_its_handshake(
    kind: Any, server: FakeServer, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    rules = [Trouble(kind, when="connect", count=1)]
    with ChaosProxy(server.url, rules, tls_front=server_tls) as proxy:
        with (
            pytest.raises(OSError, match=r"reset|EOF|timed out"),
            socket.create_connection(("127.0.0.1", proxy.port), timeout=0.1) as sock,
        ):
            client_tls.wrap_socket(sock, server_hostname="127.0.0.1")
        assert proxy.url == f"https://127.0.0.1:{proxy.port}"
        with dial(proxy, client_tls) as again:
            again.sendall(GET)
            assert one_reply(again).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("rule", [one for one in ALL if one.when != "connect"], ids=lambda rule: rule.label)
def test_with_tls_in_front_each_trouble_comes_to_the_same(
    rule: Trouble, server: FakeServer, fake: FakeService, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with ChaosProxy(server.url, [rule], tls_front=server_tls) as proxy, dial(proxy, client_tls) as sock:
        sock.sendall(grant())
        if rule.kind in SEEN:
            # OpenSSL shows neither RST nor an end without goodbye as what it is.
            assert heard(sock, patience=patience(rule)).removesuffix(RESET) in (SEEN[rule.kind], b"")
        else:
            assert one_reply(sock).startswith(b"HTTP/1.1 200")
        reaches = rule.kind in REACHES_THE_UPSTREAM or rule.when in ("sent", "reply")
        wait_for(lambda: len(fake.audit) == reaches)


def test_a_client_that_leaves_in_its_handshake_leaves_no_trace(
    server: FakeServer, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with ChaosProxy(server.url, tls_front=server_tls) as proxy:
        for hello in (b"", b"\x16\x03\x01\x00\x05\x01", GET):
            with dial(proxy) as sock:
                sock.sendall(hello)
                sock.shutdown(socket.SHUT_WR)
                heard(sock)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_tls_behind(
    server: FakeServer, fake: FakeService, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with (
        ChaosProxy(server.url, tls_front=server_tls) as hidden,
        ChaosProxy(hidden.url, tls_back=client_tls) as proxy,
        dial(proxy) as sock,
    ):
        sock.sendall(grant())
        assert one_reply(sock).startswith(b"HTTP/1.1 200")
    assert len(fake.audit) == 1


def test_an_upstream_that_nobody_vouches_for_is_not_spoken_to(
    server: FakeServer, fake: FakeService, server_tls: ssl.SSLContext
) -> None:
    with ChaosProxy(server.url, tls_front=server_tls) as hidden, ChaosProxy(hidden.url) as proxy:
        assert answer_to(grant(), proxy) == RESET
    assert fake.requests == []


def test_one_connection_serves_many_requests_and_the_log_numbers_them(server: FakeServer) -> None:
    rules = [Trouble("latency", seconds=0.01, skip=1, count=1), Trouble("fin", when="reply", skip=2)]
    with ChaosProxy(server.port, rules) as proxy, dial(proxy) as sock:
        for _ in range(2):
            sock.sendall(GET)
            assert one_reply(sock).startswith(b"HTTP/1.1 200")
        sock.sendall(grant())
        assert heard(sock) == b""
        assert [(one.connection, one.request, one.method) for one in proxy.incidents] == [
            (1, 2, "getPlans"),
            (1, 3, "addMember"),
        ]
        assert proxy.connections == proxy.replies_destroyed == 1


def test_a_rule_for_one_method_spares_the_others(server: FakeServer) -> None:
    with ChaosProxy(server.url, [Trouble("fin", method="ADDMEMBER")]) as proxy, dial(proxy) as sock:
        sock.sendall(GET)
        assert one_reply(sock).startswith(b"HTTP/1.1 200")
        sock.sendall(grant())
        assert heard(sock) == b""


def test_latency_comes_on_top_of_what_decides_in_whatever_order(server: FakeServer) -> None:
    for rules in ([Trouble("fin"), Trouble("latency", seconds=0.1)], [Trouble("latency", seconds=0.1), Trouble("fin")]):
        with ChaosProxy(server.url, rules) as proxy, dial(proxy) as sock:
            began = time.perf_counter()
            sock.sendall(GET)
            assert heard(sock) == b""
            assert time.perf_counter() - began > 0.09
            assert [one.trouble.kind for one in proxy.incidents] == ["latency", "fin"]


def test_the_same_seed_does_the_same(server: FakeServer) -> None:
    def struck(seed: int) -> list[bool]:
        rules = [Trouble("fin", when="connect", probability=0.4), Trouble("fin", when="reply", probability=0.4)]
        with ChaosProxy(server.url, rules, seed=seed) as proxy:
            return [answer_to(LAST_GET, proxy) == b"" for _ in range(20)]

    assert struck(1) == struck(1) != struck(2)


def test_troubles_come_and_go_while_it_runs(server: FakeServer) -> None:
    with ChaosProxy(server.url) as proxy:
        for injected, healed, seen in ((False, False, b"HTTP"), (True, False, b""), (False, True, b"HTTP")):
            if injected:
                proxy.inject(Trouble("fin"))
            if healed:
                proxy.clear_faults()
            assert answer_to(LAST_GET, proxy)[:4] == seen
        proxy.inject(Trouble("fin"))
        with pytest.warns(DeprecationWarning, match="clear_faults"):
            proxy.heal()
        assert answer_to(LAST_GET, proxy)[:4] == b"HTTP"


def chatty(connection: Connection) -> None:
    """Answer in every way that HTTP has to say where a reply ends."""
    connection.request()
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send(b"5;x=y\r\nhello\r\n4\r\n\r\n\r\n\r\n0\r\ntrailer: 1\r\n\r\n")
    connection.request()
    connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    connection.request()
    connection.send(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")


def test_messages_pass_byte_for_byte() -> None:
    asked = [
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 10\r\n\r\n0005\r\nhello\r\n0\r\n\r\n",
        GET,
        b"HEAD / HTTP/1.1\r\n\r\n",
        GET,
    ]

    def raw(connection: Connection) -> None:
        assert connection.sock.recv(len(asked[0]) + 1) == asked[0]
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with ScriptedServer(raw) as upstream, ChaosProxy(upstream.port) as proxy, dial(proxy) as sock:
        sock.sendall(asked[0])
        assert heard(sock) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    with ScriptedServer(chatty) as upstream, ChaosProxy(upstream.port) as proxy, dial(proxy) as sock:
        sock.sendall(GET + asked[1] + asked[2] + asked[3])
        assert heard(sock) == (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5;x=y\r\nhello\r\n4\r\n\r\n\r\n\r\n0\r\ntrailer: 1\r\n\r\n"
            b"HTTP/1.1 204 No Content\r\n\r\n"
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
        )
        assert [request[:5] for request in upstream.requests] == [b"GET /", b"GET /", b"HEAD ", b"GET /"]


def cut_short(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")


def cut_shorter(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 O")


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (cut_short, b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        (cut_shorter, b"HTTP/1.1 200 O"),
        (reset, RESET),
    ],
)
def test_what_the_upstream_does_itself_is_passed_on(script: Any, seen: bytes) -> None:
    with ScriptedServer(script) as upstream, ChaosProxy(upstream.url) as proxy, dial(proxy) as sock:
        sock.sendall(GET)
        assert heard(sock) == seen
        assert proxy.incidents == ()


def test_an_upstream_that_ends_an_idle_connection_ends_it_for_the_client() -> None:
    def once(connection: Connection) -> None:
        connection.request()
        connection.answer()

    with ScriptedServer(once) as upstream, ChaosProxy(upstream.url) as proxy, dial(proxy) as sock:
        sock.sendall(GET)
        assert heard(sock).startswith(b"HTTP/1.1 200")


def test_an_upstream_that_is_not_there_is_a_reset(refused_port: int) -> None:
    with ChaosProxy(refused_port) as proxy:
        assert answer_to(GET, proxy) == RESET


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\r\n\r\n", b"GET /\r\ncontent-length: x\r\n\r\n", b"x" * 200_000])
def test_what_is_no_request_is_a_reset(nonsense: bytes, server: FakeServer) -> None:
    with ChaosProxy(server.url) as proxy, dial(proxy) as sock:
        with contextlib.suppress(OSError):  # the reset may come before the last byte has left
            sock.sendall(nonsense)
            sock.shutdown(socket.SHUT_WR)
        assert heard(sock) in (RESET, b"")


def echo(connection: Connection) -> None:
    while data := connection.sock.recv(65_536):
        connection.send(data.upper())


def tunnel(proxy: ChaosProxy) -> socket.socket:
    sock = dial(proxy)
    sock.sendall(b"CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n\r\n")
    return sock


def test_a_connect_is_a_blind_tunnel_to_the_upstream_whatever_it_names() -> None:
    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    with ScriptedServer(echo) as upstream, ChaosProxy(upstream.url) as proxy, tunnel(proxy) as sock:
        assert sock.recv(100) == established
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        assert heard(sock) == b"BYE"


def test_a_tunnel_passes_a_reset_on() -> None:
    with ScriptedServer(reset) as upstream, ChaosProxy(upstream.url) as proxy, tunnel(proxy) as sock:
        sock.recv(100)
        sock.sendall(GET)
        assert heard(sock) == RESET


@pytest.mark.parametrize(
    ("rule", "seen"), [(Trouble("reset"), RESET), (Trouble("cut", size=12), b"HTTP/1.1 200"), (Trouble("fin"), b"")]
)
def test_a_connect_meets_troubles_like_a_request(rule: Trouble, seen: bytes) -> None:
    with ScriptedServer(echo) as upstream, ChaosProxy(upstream.url, [rule]) as proxy, tunnel(proxy) as sock:
        assert heard(sock) == seen
        assert [one.method for one in proxy.incidents] == ["CONNECT"]
        assert proxy.replies_destroyed == 0


def test_it_ends_at_once_whatever_hangs_in_it(server: FakeServer, fake: FakeService) -> None:
    rules = [Trouble("stall", count=1), Trouble("black_hole", skip=1, count=1)]
    with ChaosProxy(server.url, rules) as proxy:
        socks = [dial(proxy) for _ in range(5)]
        wait_for(lambda: proxy.connections == 5)
        socks[3].sendall(grant()[:-5])
    assert not [thread for thread in threading.enumerate() if thread.name == "ChaosProxy"]
    for sock in socks:
        assert heard(sock) in (b"", RESET)
        sock.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ChaosProxy"]
    assert fake.requests == []


def test_a_client_that_leaves_while_its_reply_dribbles_is_no_error(server: FakeServer) -> None:
    with ChaosProxy(server.url, [Trouble("dribble", seconds=0.001)]) as proxy:
        with dial(proxy) as sock:
            sock.sendall(GET)
            sock.recv(1)
        time.sleep(0.05)
        with dial(proxy) as sock:
            sock.sendall(GET)
            assert sock.recv(1) == b"H"


def test_it_is_started_and_closed_again_and_again(server: FakeServer) -> None:
    proxy = ChaosProxy(server.url)
    with pytest.raises(UsageError, match="`with ChaosProxy"):
        _ = proxy.url
    assert repr(proxy) == f"<ChaosProxy to 127.0.0.1:{server.port}, not running>"
    for _ in range(2):
        proxy.start()
        with pytest.raises(UsageError, match="runs already"):
            proxy.start()
        assert proxy.url in repr(proxy)
        proxy.close()
        proxy.close()


def test_a_port_in_use_is_a_clear_error(server: FakeServer) -> None:
    proxy = ChaosProxy(server.url, port=server.port)
    with pytest.raises(UsageError, match=f"cannot listen on port {server.port} of 127.0.0.1: .*another port"):
        proxy.start()
    with pytest.raises(UsageError, match="from 0"):
        ChaosProxy(server.url, port=70_000)


@pytest.mark.parametrize("upstream", ["ftp://x", "127.0.0.1:80", "http://", "http://x:y", None])
def test_an_upstream_that_is_none_is_refused(upstream: Any) -> None:
    with pytest.raises(UsageError, match="upstream"):
        ChaosProxy(upstream)


def test_an_upstream_without_a_port_is_on_the_usual_one() -> None:
    assert repr(ChaosProxy("http://localhost")) == "<ChaosProxy to localhost:80, not running>"
    assert repr(ChaosProxy("https://localhost")) == "<ChaosProxy to localhost:443, not running>"
