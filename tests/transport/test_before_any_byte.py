"""Any exception before our headers are begun is NotSent, and any later one is ReplyLost."""

import asyncio
import importlib
import inspect
import pkgutil
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from errno import EMFILE, ENOENT
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import HttpxTransport, NotSent, OutcomeUnknown, ReplyLost, RetryPolicy, Session, UsageError

ONCE = RetryPolicy(attempts=1)
LIBRARIES = ["httpx", "httpcore", "h11", "aiohttp", "anyio", "ssl", "socksio", "socket", "builtins"]


def _made(kind: type[Exception]) -> Exception | None:
    """Return an instance made without its constructor, or None if that has no str."""
    try:
        made = kind.__new__(kind)
        made.args = ("it broke",)
        str(made)
    except (TypeError, AttributeError, IndexError):
        return None
    return made


def _every_class() -> Iterator[Exception]:
    for library in LIBRARIES:
        for _, kind in inspect.getmembers(importlib.import_module(library), inspect.isclass):
            if issubclass(kind, Exception) and (made := _made(kind)) is not None:
                yield made


EVERY = list({type(error): error for error in _every_class()}.values())


PLACES = {
    ("httpx-asyncio", "before"): "tgmembership_async.transport.tcp.connect",
    ("httpx-asyncio", "after"): "tgmembership_async.transport.tcp.Connection.read",
    ("httpx-trio", "before"): "httpcore._backends.trio.TrioBackend.connect_tcp",
    ("httpx-trio", "after"): "httpcore._backends.trio.TrioStream.read",
    ("aiohttp-asyncio", "before"): "aiohttp.TCPConnector._create_direct_connection",
    ("aiohttp-asyncio", "after"): "aiohttp.client_proto.ResponseHandler.read",
}


def test_a_call_that_is_cancelled_when_its_connection_is_there_sends_nothing(
    crossing: tuple[str, str], serve: Any, run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On asyncio, anyio does not cancel a task that is about to go on: it does so at the next wait."""
    sent: list[object] = []

    def script(connection: Any) -> None:
        while request := connection.request():
            sent.append(request)
            connection.answer()

    server = serve(script)
    place = "aiohttp.TCPConnector.connect" if crossing[0] == "aiohttp" else PLACES["-".join(crossing), "before"]
    owner, name = place.rpartition(".")[::2]
    connect = getattr(pkgutil.resolve_name(owner), name)
    scopes: list[anyio.CancelScope] = []

    async def connected(*given: Any, **options: Any) -> Any:
        connection = await connect(*given, **options)
        if crossing[1] == "asyncio":
            loop = asyncio.get_running_loop()
            goes_on = loop.create_future()
            loop.call_soon(goes_on.set_result, None)
            loop.call_soon(scopes[0].cancel)
            await goes_on
        else:
            scopes[0].cancel()
        return connection

    monkeypatch.setattr(place, connected)

    async def scenario() -> None:
        async with session(server.url) as tg:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await tg.add_member(1, 42)
        assert scope.cancelled_caught

    run(scenario)
    assert sent == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_class_of_exception_is_judged_by_what_was_sent(
    when: str, half: int, crossing: tuple[str, str], serve: Any, run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class is raised while connecting, and while the reply is read: in turn of a read and of a grant."""
    server = serve(answering())
    raised: list[Exception] = []

    async def fail(*_: Any, **__: Any) -> Any:
        raise raised[-1]

    monkeypatch.setattr(PLACES["-".join(crossing), when], fail)

    async def scenario() -> None:
        async with session(server.url, retry=ONCE) as tg:
            for number, error in enumerate(EVERY, half):
                raised.append(error)
                if number % 2:
                    with pytest.raises(NotSent if when == "before" else ReplyLost):
                        await tg.get_plans()
                else:
                    with pytest.raises(NotSent if when == "before" else OutcomeUnknown):
                        await tg.add_member(1, 42)

    run(scenario)
    assert len(raised) > 100


@pytest.mark.parametrize("errno", [EMFILE, ENOENT])
def test_what_the_system_refuses_before_there_is_a_pool_is_not_sent(
    errno: int, way: Any, run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno, "no CA file, or no descriptor for it")

    monkeypatch.setattr(way, "_make_lanes", fail)

    async def scenario() -> None:
        async with session("https://api.example.com", retry=ONCE) as tg:
            with pytest.raises(NotSent):
                await tg.add_member(1, 42)

    run(scenario)


def test_a_transport_is_refused_to_a_second_session(serve: Any, run: Any, session: Any, way: Any) -> None:
    """Its connections lead to the service of the first one."""
    first, second = serve(answering()), serve(answering())

    async def scenario() -> None:
        shared = way(proxy=None)
        async with session(first.url, transport=shared) as tg, session(second.url, transport=shared) as other:
            await tg.get_plans()
            with pytest.raises(UsageError, match="give each a transport of its own"):
                await other.add_member(1, 42)
            await tg.get_plans()
        async with session(first.url, transport=shared) as again:
            await again.get_plans()

    run(scenario)
    assert (len(first.requests), second.requests) == (3, [])


@pytest.mark.parametrize("label", ["", "x" * 64], ids=["empty", "too long"])
def test_a_host_that_dns_cannot_name_is_not_sent_to(label: str, run: Any, session: Any) -> None:
    async def scenario() -> None:
        async with session(f"https://api.{label}.example.com", retry=ONCE) as tg:
            with pytest.raises(NotSent):
                await tg.get_plans()
            with pytest.raises(NotSent):
                await tg.add_member(1, 42)

    run(scenario)


def test_a_resolver_that_answers_nothing_is_not_sent_to(
    run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])

    async def nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", nothing)

    async def scenario() -> None:
        async with session("http://localhost:9", retry=ONCE) as tg:
            with pytest.raises(NotSent):
                await tg.add_member(1, 42)

    run(scenario)


def test_a_socks_proxy_that_speaks_http_is_not_sent_through(serve: Any, run: Any, library: str, session: Any) -> None:
    if library == "aiohttp":
        pytest.skip("aiohttp knows no SOCKS")

    def script(connection: Any) -> None:
        connection.sock.recv(100)
        connection.answer(400)

    proxy = serve(script)

    async def scenario() -> None:
        async with session("https://127.0.0.1:9", proxy=f"socks5://127.0.0.1:{proxy.port}", retry=ONCE) as tg:
            with pytest.raises(NotSent, match="ProtocolError"):
                await tg.get_plans()
            with pytest.raises(NotSent, match="ProtocolError"):
                await tg.add_member(1, 42)

    run(scenario)


@pytest.fixture
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    variable, kind = request.param
    path = tmp_path / "missing" / "file"
    if kind == "broken":
        path = tmp_path / "broken.pem"
        path.write_text("-----BEGIN CERTIFICATE-----\nno certificate\n-----END CERTIFICATE-----\n")
    return variable, str(path)


@pytest.mark.parametrize(
    "unusable",
    [
        ("SSL_CERT_FILE", "missing"),
        ("SSL_CERT_FILE", "broken"),
        ("SSL_CERT_DIR", "missing"),
        ("SSLKEYLOGFILE", "missing"),
    ],
    ids="-".join,
    indirect=True,
)
def test_tls_settings_that_cannot_be_used_are_named(
    unusable: tuple[str, str], run: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, path = unusable
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, path)

    async def scenario() -> None:
        async with session("https://127.0.0.1:9") as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                with pytest.raises(UsageError, match=variable) as usage:
                    await call()
                assert path in str(usage.value)

    run(scenario)


@pytest.mark.parametrize("name", ["us€r", "us%E2%82%ACr"])
def test_a_proxys_credentials_may_hold_any_letter(
    name: str, serve: Any, run: Any, way: Any, session: Any, client_tls: ssl.SSLContext
) -> None:
    def script(connection: Any) -> None:
        connection.request()
        connection.answer(403)

    proxy = serve(script)

    async def scenario() -> None:
        transport = way(ssl_context=client_tls, proxy=f"http://{name}:pa%C3%9Fwort@127.0.0.1:{proxy.port}")
        async with session("https://127.0.0.1:9", transport=transport, retry=ONCE) as tg:
            with pytest.raises(NotSent):
                await tg.add_member(1, 42)

    run(scenario)
    assert b"basic " + b64encode("us€r:paßwort".encode()).lower() in proxy.requests[0].lower()


def test_a_proxys_user_name_with_a_colon_is_refused(way: Any) -> None:
    with pytest.raises(UsageError, match="colon"):
        way(proxy="http://us%3Aer:password@127.0.0.1:9")


@respx.mock
async def test_an_exception_of_a_mock_is_not_ours() -> None:
    bug = AssertionError("the mock's own")
    respx.route().mock(side_effect=bug)
    calls: list[Callable[[Session], Any]] = [lambda tg: tg.get_plans()]
    async with httpx.AsyncClient() as client:
        for transport in (HttpxTransport(proxy=None), HttpxTransport(client=client)):
            async with Session(1, CANARY_KEY, transport=transport) as tg:
                for call in calls:
                    with pytest.raises(AssertionError, match="the mock's own"):
                        await call(tg)
                with pytest.raises(OutcomeUnknown) as unknown:
                    await tg.add_member(1, 42)
                assert unknown.value.__cause__ is bug
    assert len(respx.calls) == 4
