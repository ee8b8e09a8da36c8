"""`connect_timeout` bounds all steps before the request, and the error names the step that was slow or failed."""

import gc
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
from canary import CANARY_KEY

from tgmembership_async import AiohttpTransport, HttpxTransport, NotSent, RetryPolicy, Session

# A connector of the user leaves sockets open when connecting is cut off.
LEAKS = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
WAYS = [
    pytest.param((library, backend), marks=[LEAKS] if library == "lent connector" else [], id=f"{library}-{backend}")
    for library, backend in [
        ("httpx", "asyncio"),
        ("httpx", "trio"),
        ("aiohttp", "asyncio"),
        ("lent client", "asyncio"),
        ("lent client", "trio"),
        ("lent connector", "asyncio"),
    ]
]
SECONDS = 0.25


@pytest.fixture(params=WAYS)
def crossing(request: pytest.FixtureRequest) -> tuple[str, str]:
    library, backend = request.param
    return library, backend


Opener = Callable[..., AbstractAsyncContextManager[Session]]


@pytest.fixture
def opened(library: str, client_tls: ssl.SSLContext) -> Iterator[Opener]:
    """Return a function that opens a Session on each transport, with a connector or client of the user, too.

    With `is_full`, the only connection of that connector or client is in use.
    """

    @asynccontextmanager
    async def opened(
        url: str, proxy: str | None = None, seconds: float = 20.0, *, is_full: bool = False
    ) -> AsyncIterator[Session]:
        async with AsyncExitStack() as stack:
            if library == "lent client":
                limits = httpx.Limits(max_connections=1 if is_full else 100)
                client = httpx.AsyncClient(verify=client_tls, proxy=proxy, trust_env=False, limits=limits)
                transport: Any = HttpxTransport(client=await stack.enter_async_context(client))
                if is_full:
                    await stack.enter_async_context(client.stream("GET", url))
            elif library == "lent connector":
                limit = 1 if is_full else 100
                connector = await stack.enter_async_context(aiohttp.TCPConnector(use_dns_cache=False, limit=limit))
                if is_full:
                    user = aiohttp.ClientSession(connector=connector, connector_owner=False)
                    await stack.enter_async_context((await stack.enter_async_context(user)).get(url))
                transport = AiohttpTransport(connector=connector, proxy=proxy, ssl_context=client_tls)
            else:
                way = HttpxTransport if library == "httpx" else AiohttpTransport
                transport = way(proxy=proxy, ssl_context=client_tls)
            options: dict[str, Any] = {"connect_timeout": seconds, "retry": RetryPolicy(attempts=1)}
            yield await stack.enter_async_context(
                Session(8047883872, CANARY_KEY, base_url=url, transport=transport, **options)
            )

    yield opened
    if library.startswith("lent"):
        gc.collect()  # now, while their warning is ignored


def fails_with(step: str, opened: AbstractAsyncContextManager[Session], run: Any) -> list[str]:
    """Return the errors of a read and of a grant, which were not sent; each names the step and no scope's address."""
    errors: list[str] = []

    async def scenario() -> None:
        async with opened as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                with pytest.raises(NotSent, match=f"{step}: ") as caught:
                    await call()
                errors.append(str(caught.value))

    run(scenario)
    assert not [error for error in errors if "scope" in error or "0x" in error]
    return errors


def says_nothing(connection: Any) -> None:
    while connection.sock.recv(4096):
        pass


@pytest.mark.parametrize(
    ("scheme", "step"), [("http", "proxy"), ("socks5", "proxy"), (None, "TLS")], ids=["CONNECT", "SOCKS", "TLS"]
)
def test_what_comes_before_the_request_is_bounded_as_a_whole_and_the_slow_step_is_named(
    scheme: str | None, step: str, serve: Any, run: Any, opened: Opener, library: str
) -> None:
    if scheme == "socks5" and library in ("aiohttp", "lent connector"):
        pytest.skip("aiohttp knows no SOCKS")
    server = serve(says_nothing)
    proxy = None if scheme is None else f"{scheme}://127.0.0.1:{server.port}"
    before = time.monotonic()
    errors = fails_with(step, opened(f"https://127.0.0.1:{server.port}", proxy, SECONDS), run)
    assert time.monotonic() - before < 20.0
    assert all(f"within {SECONDS:g} s" in error for error in errors)


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let each look-up of a name hang until the event is set."""
    over, usual = threading.Event(), socket.getaddrinfo

    def hang(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002
        if host in ("slow.example", b"slow.example") and not flags & socket.AI_NUMERICHOST:
            over.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return usual(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield over
    over.set()


def test_a_slow_resolver_is_named(silent_resolver: threading.Event, run: Any, opened: Opener) -> None:
    @asynccontextmanager
    async def until_the_end() -> AsyncIterator[Session]:
        async with opened("https://slow.example", seconds=SECONDS) as tg:
            try:
                yield tg
            finally:
                silent_resolver.set()  # the loop waits for its threads

    fails_with("DNS", until_the_end(), run)


def test_a_host_that_does_not_answer_is_named(silent_port: int, run: Any, opened: Opener) -> None:
    fails_with("TCP", opened(f"https://127.0.0.3:{silent_port}", seconds=SECONDS), run)


def test_a_name_that_does_not_resolve_is_named(
    silent_resolver: threading.Event, run: Any, opened: Opener, refused_port: int
) -> None:
    silent_resolver.set()
    errors = fails_with("DNS", opened("https://slow.example", "http://slow.example:1"), run)
    errors += fails_with("DNS", opened("https://slow.example"), run)
    assert all("no answer" in error for error in errors)
    assert not fails_with("TCP", opened(f"https://localhost:{refused_port}"), run)[0].count("DNS")


def test_a_port_that_refuses_is_named(refused_port: int, run: Any, opened: Opener) -> None:
    fails_with("TCP", opened(f"https://127.0.0.1:{refused_port}"), run)
    fails_with("TCP", opened("https://127.0.0.1:9", f"http://127.0.0.1:{refused_port}"), run)


def test_a_proxy_that_refuses_is_named(serve: Any, run: Any, opened: Opener) -> None:
    def refuse(connection: Any) -> None:
        connection.request()
        connection.answer(403)

    errors = fails_with("proxy", opened("https://127.0.0.1:9", f"http://127.0.0.1:{serve(refuse).port}"), run)
    assert all("403" in error for error in errors)


def test_a_proxy_that_closes_is_named(serve: Any, run: Any, opened: Opener) -> None:
    server = serve(lambda connection: connection.request())
    fails_with("proxy", opened("https://127.0.0.1:9", f"http://127.0.0.1:{server.port}"), run)


def test_a_certificate_that_is_not_trusted_is_named(serve: Any, run: Any, opened: Opener) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(stranger)
    errors = fails_with("TLS", opened(serve(lambda connection: connection.request(), stranger).url), run)
    assert all("certificate verify failed" in error for error in errors)


def test_tls_behind_a_proxy_is_named(serve: Any, run: Any, opened: Opener) -> None:
    def tunnel(connection: Any) -> None:
        connection.request()
        connection.answer(200, b"")
        connection.sock.recv(1)

    fails_with("TLS", opened("https://127.0.0.1:9", f"http://127.0.0.1:{serve(tunnel).port}"), run)


def test_a_pool_without_a_free_connection_is_named(serve: Any, run: Any, opened: Opener, library: str) -> None:
    if not library.startswith("lent"):
        pytest.skip("its lanes wait for nothing")

    def begins_a_reply(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        says_nothing(connection)

    async def scenario() -> None:
        async with opened(serve(begins_a_reply).url, seconds=SECONDS, is_full=True) as tg:
            with pytest.raises(NotSent, match=f"pool: .*within {SECONDS:g} s"):
                await tg.get_plans()

    run(scenario)


def test_a_handshake_that_is_cut_off_takes_no_place_in_a_lent_pool(serve: Any, run: Any, library: str) -> None:
    if library != "lent client":
        pytest.skip("about the pool of a lent httpx client")
    server = serve(says_nothing)

    async def scenario() -> None:
        one, proxy = httpx.Limits(max_connections=1), f"socks5://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(limits=one, proxy=proxy, trust_env=False) as client:
            options: dict[str, Any] = {"connect_timeout": SECONDS, "retry": RetryPolicy(attempts=1)}
            transport = HttpxTransport(client=client)
            async with Session(1, CANARY_KEY, base_url="https://127.0.0.1:9", transport=transport, **options) as tg:
                for _ in range(2):
                    with pytest.raises(NotSent, match="proxy: "):
                        await tg.get_plans()

    run(scenario)
