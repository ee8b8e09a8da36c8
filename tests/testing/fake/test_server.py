"""The fake service on a real socket: fast up and down, and faults that look like what they are."""

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from no_tls import NO_TLS
from waiting import wait_for

from tgmembership_async.errors import UsageError
from tgmembership_async.testing import FakeService, Fault, serve
from tgmembership_async.testing.fake.asgi import Connection
from tgmembership_async.testing.fake.server import FakeServer
from tgmembership_async.values.secret import Secret

KEY = "Abc0123456789"
GRANT = {"plan_id": 1, "member_id": 42}


@pytest.fixture
def fake() -> FakeService:
    return FakeService(bot_id=7, api_key=KEY)


@pytest.fixture
def server(fake: FakeService) -> Iterator[FakeServer]:
    with serve(fake) as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{server.url}/bot7/{KEY}", trust_env=False, verify=NO_TLS, timeout=30) as made:
        yield made


def raw(server: FakeServer, data: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=30) as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received


def test_it_answers_as_the_service_does(client: httpx.Client, fake: FakeService) -> None:
    assert client.get("getPlans", params={"plan_id": 2}).json()["result"][0]["plan_id"] == "2"
    assert client.post("addMember", json=GRANT).json()["ok"] is True
    assert client.post("addMember", data={"plan_id": "1"}).json()["ok"] is True
    assert client.delete("webhook").status_code == 200
    assert client.get("addMember").status_code == 405
    assert [grant.member_id for grant in fake.audit] == [42, None]


def test_a_key_in_percent_encoding_is_the_same_key(server: FakeServer) -> None:
    assert httpx.get(f"{server.url}/bot7/%41{KEY[1:]}/getPlans", trust_env=False, verify=NO_TLS).status_code == 200


def test_connections_are_kept(client: httpx.Client, server: FakeServer) -> None:
    first = client.get("getPlans").extensions["network_stream"].get_extra_info("client_addr")
    again = client.get("getPlans").extensions["network_stream"].get_extra_info("client_addr")
    assert first == again
    assert server.url == server.base_url


def test_its_thread_ends_with_it(fake: FakeService) -> None:
    with serve(fake) as running:
        raw(running, _grant().replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert not [thread for thread in threading.enumerate() if thread.name == "FakeServer"]


def test_a_closed_server_has_no_port(fake: FakeService) -> None:
    with serve(fake) as running:
        assert running.port > 0
    with pytest.raises(UsageError, match="`with serve"):
        _ = running.port


def test_it_runs_again_on_the_same_port(fake: FakeService) -> None:
    with serve(fake) as first:
        port = first.port
        httpx.get(first.url, trust_env=False, verify=NO_TLS)
    with serve(fake, port=port) as second:
        assert httpx.get(second.url, trust_env=False, verify=NO_TLS).status_code == 404


def test_one_server_is_started_closed_and_started_again(fake: FakeService) -> None:
    running = serve(fake)
    assert repr(running) == "<FakeServer, not running>"
    running.start()
    with pytest.raises(UsageError, match="already"):
        running.start()
    assert repr(running) == f"<FakeServer at {running.url}>"
    running.close()
    running.close()
    running.start()
    running.close()


def test_it_says_how_to_get_there(server: FakeServer) -> None:
    assert server.env() == {
        "TGMEMBERSHIP_BOT_ID": "7",
        "TGMEMBERSHIP_API_KEY": KEY,
        "TGMEMBERSHIP_BASE_URL": f"http://127.0.0.1:{server.port}",
    }
    options = server.session_options()
    assert options == {"bot_id": 7, "api_key": Secret(KEY), "base_url": server.url, "proxy": None}


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_it_listens_on_other_names_of_this_machine(fake: FakeService, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with serve(fake, host=host) as running:
        assert httpx.get(running.url, trust_env=False, verify=NO_TLS).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", ""])
def test_it_listens_on_loopback_only(fake: FakeService, host: str) -> None:
    with pytest.raises(UsageError, match="loopback only"):
        serve(fake, host=host)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(fake: FakeService, port: int) -> None:
    with pytest.raises(UsageError, match="from 0"):
        serve(fake, port=port)


def test_a_port_in_use_is_a_clear_error(server: FakeServer, fake: FakeService) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on port {server.port} of 127.0.0.1: .*in use.*another port"):
        serve(fake, port=server.port).start()


@pytest.mark.parametrize("when", ["before", "after"])
def test_closed_is_an_end_without_a_byte(server: FakeServer, fake: FakeService, when: str) -> None:
    fake.inject(Fault("closed", when=when))  # type: ignore[arg-type]
    assert raw(server, _grant()) == b""
    assert len(fake.audit) == (when == "after")


@pytest.mark.parametrize("when", ["before", "after"])
def test_reset_is_a_reset(server: FakeServer, fake: FakeService, when: str) -> None:
    fake.inject(Fault("reset", when=when))  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        raw(server, _grant())
    assert len(fake.audit) == (when == "after")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cut_body_ends_before_its_content_length(server: FakeServer, fake: FakeService, when: str) -> None:
    fake.inject(Fault("cut", when=when))  # type: ignore[arg-type]
    head, _, body = raw(server, _grant()).partition(b"\r\n\r\n")
    [length] = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    assert 0 < len(body) == int(length) // 2
    assert len(fake.audit) == (when == "after")


def test_damaged_html_and_throttled_answers_are_whole_answers(client: httpx.Client, fake: FakeService) -> None:
    fake.inject(Fault("throttled", retry_after=0.05, count=1), Fault("html", count=1), Fault("damaged", count=1))
    throttled, page, damaged = (client.post("addMember", json=GRANT) for _ in range(3))
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "0.05")
    assert (page.status_code, page.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert damaged.status_code == 200
    with pytest.raises(ValueError, match="decode"):
        damaged.json()


def test_latency_delays_one_answer_and_no_other(client: httpx.Client, fake: FakeService) -> None:
    fake.inject(Fault("latency", method="addMember", seconds=30))
    with pytest.raises(httpx.ReadTimeout):
        client.post("addMember", json=GRANT, timeout=0.05)
    assert client.get("getPlans").status_code == 200


def test_what_has_arrived_is_carried_out_before_the_server_ends(fake: FakeService) -> None:
    fake.inject(Fault("latency", seconds=30))
    with serve(fake) as running, socket.create_connection((running.host, running.port)) as sock:
        sock.sendall(_grant())
        wait_for(lambda: fake.requests)
    assert len(fake.audit) == 1


def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_no_trace(
    server: FakeServer, client: httpx.Client, fake: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection((server.host, server.port)) as sock:
        sock.sendall(_grant()[:-5])
    assert client.get("getPlans").status_code == 200
    assert fake.audit == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_client_that_leaves_before_its_reset_is_no_error(
    server: FakeServer, client: httpx.Client, fake: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Fault("latency", seconds=0.05, count=1), Fault("reset", when="after", count=1))
    with socket.create_connection((server.host, server.port)) as sock:
        sock.sendall(_grant())
        wait_for(lambda: fake.requests)
    wait_for(lambda: fake.audit)
    assert client.get("getPlans").status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_key_is_in_no_log(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn")
    caplog.set_level(logging.DEBUG, "asyncio")
    client.get("getPlans")
    assert KEY not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("uvicorn"))


def test_a_burst_of_connections_is_taken(server: FakeServer) -> None:
    socks = [socket.create_connection((server.host, server.port), timeout=30) for _ in range(300)]
    for sock in socks:
        sock.sendall(f"GET /bot7/{KEY}/getPlans HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    for sock in socks:
        assert sock.recv(20).startswith(b"HTTP/1.1 200")
        sock.close()


def test_small_answers_do_not_wait_for_delayed_acknowledgements(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    undelayed: list[int] = []
    usual = Connection.connection_made

    def connection_made(connection: Connection, transport: Any) -> None:
        undelayed.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        usual(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    client.post("addMember", json=GRANT)
    assert undelayed == [1]


def _grant() -> bytes:
    body = b"plan_id=1&member_id=42"
    return f"POST /bot7/{KEY}/addMember HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
