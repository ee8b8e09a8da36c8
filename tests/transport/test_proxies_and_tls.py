"""Proxies and TLS: the bytes that they receive, and the outcomes of their failures."""

import ssl
import threading
from typing import Any

import pytest
from canary import CANARY_KEY
from scripted_server import ScriptedServer, answering

from tgmembership_async import NotSent, OutcomeUnknown, UsageError
from tgmembership_async.transport import proxies

PATH = f"/bot8047883872/{CANARY_KEY}/getPlans".encode()


def connect_proxy(connection: Any) -> None:
    line = connection.request().split(b" ")
    if len(line) > 1:
        host, port = line[1].split(b":")
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.pipe(host.decode(), int(port))


def test_the_real_path_goes_onto_the_wire(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        async with session(server.url) as tg:
            await tg.get_plans(plan_id=7)

    run(scenario)
    head = server.requests[0]
    assert head.startswith(b"GET " + PATH + b"?plan_id=7 HTTP/1.1\r\n")
    assert b"\r\nhost: 127.0.0.1:%d\r\n" % server.port in head.lower()
    assert b"accept-encoding: identity" in head.lower()


def test_a_connect_proxy_never_sees_the_key(
    serve: Any, run: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, session: Any, way: Any
) -> None:
    server = serve(answering(), server_tls)
    proxy = serve(connect_proxy)

    async def scenario() -> None:
        transport = way(ssl_context=client_tls, proxy=proxy.url)
        async with session(server.url, transport=transport) as tg:
            assert await tg.get_plans() == []
            assert await tg.get_plans() == []

    run(scenario)
    assert server.requests[0].startswith(b"GET " + PATH + b" HTTP/1.1\r\n")
    assert server.connections == proxy.connections == 1
    for request in proxy.requests:
        assert CANARY_KEY.encode() not in request
        assert request.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % server.port)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "https_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_plain_http_goes_past_the_proxy_of_the_environment(
    host: str, name: str, serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    """A forward proxy would get the absolute form with the API key; it must receive nothing."""
    server, proxy = serve(answering()), serve(answering())
    monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        async with session(f"http://{host}:{server.port}", proxy="env") as tg:
            assert await tg.get_plans() == []

    run(scenario)
    assert server.requests[0].startswith(b"GET " + PATH + b" HTTP/1.1\r\n")
    assert proxy.connections == 0


def test_plain_http_with_a_proxy_of_your_own_is_refused(serve: Any, run: Any, session: Any, way: Any) -> None:
    server, proxy = serve(answering()), serve(answering())
    with pytest.raises(UsageError, match="would read the API key"):
        session(server.url, proxy=proxy.url)

    async def scenario() -> None:
        async with session(server.url, transport=way(proxy=proxy.url)) as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                with pytest.raises(UsageError, match="would read the API key"):
                    await call()

    run(scenario)
    assert server.connections == proxy.connections == 0


def test_plain_http_is_not_sent_to_a_localhost_that_is_another_machine(
    serve: Any, run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of the connection is checked, not only the name."""
    server = serve(answering())
    monkeypatch.setattr(proxies, "is_loopback", lambda host: host != "127.0.0.1")  # as if it were another machine

    async def scenario() -> None:
        async with session(f"http://localhost:{server.port}") as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                with pytest.raises(UsageError, match="not a loopback one"):
                    await call()

    run(scenario)
    assert server.requests == []


@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
def test_the_environment_names_the_proxy(
    name: str,
    serve: Any,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    session: Any,
    way: Any,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    server, proxy = serve(answering(), server_tls), serve(connect_proxy)
    monkeypatch.setenv(name, f"127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        async with session(server.url, transport=way(proxy="env", ssl_context=client_tls)) as tg:
            await tg.get_plans()

    run(scenario)
    assert len(proxy.requests) == 1


def test_the_environment_names_hosts_without_proxy(
    serve: Any,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    session: Any,
    way: Any,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    server = serve(answering(), server_tls)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    async def scenario() -> None:
        async with session(server.url, transport=way(proxy="env", ssl_context=client_tls)) as tg:
            await tg.get_plans()

    run(scenario)
    assert len(server.requests) == 1


def refuse_tunnel(connection: Any) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")


def drop_tunnel(connection: Any) -> None:
    connection.request()
    connection.reset()


def dead_tunnel(connection: Any) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    connection.reset()


def silent_tunnel(connection: Any) -> None:
    connection.request()
    connection.sock.recv(1)


@pytest.mark.parametrize("script", [refuse_tunnel, drop_tunnel, dead_tunnel, silent_tunnel])
def test_a_proxy_that_fails_before_our_request_proves_that_nothing_was_sent(
    script: Any, serve: Any, run: Any, client_tls: ssl.SSLContext, session: Any, way: Any
) -> None:
    proxy = serve(script)

    async def scenario() -> None:
        transport = way(ssl_context=client_tls, proxy=proxy.url)
        options = {"transport": transport, "grant_timeout": 0.1, "connect_timeout": 0.1}
        async with session("https://127.0.0.1:9", **options) as tg:
            with pytest.raises(NotSent) as not_sent:
                await tg.add_member(1, 42)
            assert not_sent.value.attempts == 4

    run(scenario)
    assert not any(CANARY_KEY.encode() in request for request in proxy.requests)


def test_a_proxy_that_dies_after_our_request_proves_nothing(
    serve: Any, run: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, session: Any, way: Any
) -> None:
    def die(connection: Any) -> None:
        connection.request()
        connection.reset()

    server = serve(die, server_tls)
    proxy = serve(connect_proxy)

    async def scenario() -> None:
        async with session(server.url, transport=way(ssl_context=client_tls, proxy=proxy.url)) as tg:
            with pytest.raises(OutcomeUnknown):
                await tg.add_member(1, 42)

    run(scenario)


def test_a_certificate_that_nobody_vouches_for_is_not_sent_to(
    serve: Any, run: Any, server_tls: ssl.SSLContext, session: Any
) -> None:
    server = serve(answering(), server_tls)

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(NotSent, match="certificate"):
                await tg.add_member(1, 42)

    run(scenario)
    assert server.requests == []


def test_an_authority_of_your_own_is_one_argument(
    serve: Any, run: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, session: Any, way: Any
) -> None:
    server = serve(answering(), server_tls)

    async def scenario() -> None:
        async with session(server.url, transport=way(ssl_context=client_tls, proxy=None)) as tg:
            assert await tg.get_plans() == []

    run(scenario)


def test_an_authority_in_the_environment_works_too(
    serve: Any,
    run: Any,
    server_tls: ssl.SSLContext,
    authority: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    session: Any,
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = serve(answering(), server_tls)

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert await tg.get_plans() == []

    run(scenario)


def socks5(connection: Any) -> None:
    _, methods = connection.sock.recv(1), connection.sock.recv(1)[0]
    connection.sock.recv(methods)
    connection.send(b"\x05\x00")
    request = connection.sock.recv(4)
    size = connection.sock.recv(1)[0] if request[3] == 3 else 4
    host = connection.sock.recv(size)
    port = int.from_bytes(connection.sock.recv(2), "big")
    connection.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
    name = host.decode() if request[3] == 3 else ".".join(map(str, host))
    connection.pipe(name, port)


@pytest.mark.parametrize("crossing", [("httpx", "asyncio"), ("httpx", "trio")], ids="-".join, indirect=True)
def test_a_socks_proxy_works(
    serve: Any, run: Any, session: Any, way: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server, proxy = serve(answering(), server_tls), serve(socks5)

    async def scenario() -> None:
        transport = way(proxy=f"socks5://127.0.0.1:{proxy.port}", ssl_context=client_tls)
        async with session(server.url, transport=transport) as tg:
            assert await tg.get_plans() == []

    run(scenario)
    assert proxy.connections == 1


@pytest.mark.parametrize("crossing", [("aiohttp", "asyncio")], ids="-".join, indirect=True)
def test_aiohttp_knows_no_socks(session: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="proxy must be"):
        session("https://127.0.0.1:9", proxy="socks5://127.0.0.1:1080")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        async with session("https://127.0.0.1:9", proxy="env") as tg:
            with pytest.raises(UsageError, match="proxy must be"):
                await tg.add_member(1, 42)

    run(scenario)


@pytest.mark.parametrize("proxy", ["", "gopher://x", "http://", "nonsense", "http://x:99999", 5])
def test_a_wrong_proxy_is_refused_when_the_session_is_built(proxy: Any, session: Any) -> None:
    with pytest.raises(UsageError, match="proxy"):
        session("https://api.tgmembership.com", proxy=proxy)


def test_a_proxys_password_is_not_shown(session: Any) -> None:
    with pytest.raises(UsageError) as error:
        session("https://api.tgmembership.com", proxy="htp://user:hunter2@proxy")
    assert "hunter2" not in str(error.value)


def test_all_lanes_share_one_tls_context(
    serve: Any, run: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, authority: Any, session: Any
) -> None:
    made = []
    real = ssl.create_default_context

    def counted(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = real(*args, **kwargs)
        authority.configure_trust(context)
        made.append(context)
        return context

    monkeypatch.setattr(ssl, "create_default_context", counted)
    gate = threading.Barrier(4, timeout=60)

    def together(connection: ScriptedServer) -> None:
        while connection.request():  # type: ignore[attr-defined]
            gate.wait()
            connection.answer()  # type: ignore[attr-defined]

    server = serve(together, server_tls)

    async def scenario() -> None:
        import anyio  # noqa: PLC0415

        async with session(server.url) as tg, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(tg.get_plans)

    run(scenario)
    assert server.connections == 4
    assert len(made) == 1
