"""The Receiver behind real servers: Starlette and bare ASGI on uvicorn, and aiohttp beside another route."""

import asyncio
import contextlib
import gzip
import json
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from asgi_server import on_uvicorn
from canary import CANARY_SECRET
from fastapi import FastAPI
from no_tls import NO_TLS
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from webhook_deliveries import Seen, body, signed

from tgmembership_async.ext.fastapi import receiver_router
from tgmembership_async.webhooks import Event, Receiver, SqliteInbox, Verifier

LIMIT = 1_000


def receiver(**options: Any) -> Receiver:
    return Receiver(Verifier(CANARY_SECRET), max_body=LIMIT, **options)


def starlette(to: Receiver) -> Starlette:
    return Starlette(routes=[Route("/tgmembership", to.asgi), Mount("/mounted", to.asgi)])


@contextlib.asynccontextmanager
async def with_starlette(to: Receiver) -> AsyncIterator[str]:
    async with on_uvicorn(starlette(to)) as url:
        yield f"{url}/tgmembership"


@contextlib.asynccontextmanager
async def with_aiohttp(to: Receiver) -> AsyncIterator[str]:
    async def telegram(_: web.Request) -> web.Response:
        return web.Response(text="the bot's own webhook")

    app = web.Application()
    app.router.add_post("/telegram", telegram)
    app.router.add_route("*", "/tgmembership", to.aiohttp_handler)
    runner = web.AppRunner(app, access_log=None, lingering_time=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/tgmembership"
    await runner.cleanup()


def _fastapi(to: Receiver) -> FastAPI:
    app = FastAPI()
    app.include_router(receiver_router(to, "/tgmembership"))
    return app


@contextlib.asynccontextmanager
async def with_fastapi(to: Receiver) -> AsyncIterator[str]:
    async with on_uvicorn(_fastapi(to)) as url:
        yield f"{url}/tgmembership"


@contextlib.asynccontextmanager
async def with_bare_asgi(to: Receiver) -> AsyncIterator[str]:
    async with on_uvicorn(to.asgi) as url:
        yield url


Serve = Callable[[Receiver], AbstractAsyncContextManager[str]]
every_server = pytest.mark.parametrize("serve", [with_starlette, with_aiohttp])


@contextlib.asynccontextmanager
async def served(serve: Serve, to: Receiver) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    async with serve(to) as url, httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=30) as client:
        yield client, url


@every_server
async def test_a_delivery_is_answered_and_handled(serve: Serve) -> None:
    to, seen = receiver(), Seen()
    to.on(Event)(seen)
    async with served(serve, to) as (client, url):
        reply = await client.post(url, content=body(), headers=signed(body()))
        assert (reply.status_code, reply.text) == (200, "ok\n")
        assert reply.headers["content-type"].startswith("text/plain")
        forged = await client.post(url, content=body(2), headers=signed(body()))
        assert forged.status_code == 401
        unreadable = await client.post(url, content=b"[]", headers=signed(b"[]"))
        assert unreadable.status_code == 400
    assert len(seen.events) == 1


@every_server
@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_other_verb_gets_405_with_allow(serve: Serve, verb: str) -> None:
    async with served(serve, receiver()) as (client, url):
        reply = await client.request(verb, url)
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


@every_server
async def test_probes_are_answered_where_they_are_wanted(serve: Serve) -> None:
    async with served(serve, receiver(probes=True)) as (client, url):
        assert [(await client.request(verb, url)).status_code for verb in ("GET", "HEAD", "POST", "PUT")] == [
            200,
            200,
            200,
            405,
        ]


@every_server
async def test_exactly_its_path_is_never_redirected(serve: Serve) -> None:
    async with served(serve, receiver()) as (client, url):
        for address in (url, f"{url}?x=1"):
            assert (await client.post(address, content=body(), headers=signed(body()))).status_code == 200


@every_server
async def test_what_is_too_long_is_refused_before_it_is_read(serve: Serve) -> None:
    async with serve(receiver()) as url:
        reply = await _raw(url, b"content-length: 100000000\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 413")


@every_server
async def test_what_turns_out_too_long_is_refused_as_soon_as_it_does(serve: Serve) -> None:
    async with serve(receiver()) as url:
        reply = await _raw(url, b"transfer-encoding: chunked\r\n\r\n", b"1f4\r\n" + b"x" * 500 + b"\r\n")
        assert reply.startswith(b"HTTP/1.1 413")


@every_server
@pytest.mark.parametrize("head", [b"content-length: 9\r\n\r\nx", b"transfer-encoding: chunked\r\n\r\n1\r\nx"])
async def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve, head: bytes) -> None:
    async with serve(receiver(body_timeout=0.2)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"POST /tgmembership HTTP/1.1\r\nhost: x\r\n" + head)
        try:
            reply = await asyncio.wait_for(reader.read(), 30)  # to its end: the connection is closed
        finally:
            writer.close()
        assert reply.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in reply.lower()


@every_server
async def test_a_client_that_leaves_in_the_middle_leaves_no_trace(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(serve, receiver()) as (client, url):
        with contextlib.closing(_connected(url)) as sock:
            sock.sendall(b"POST /tgmembership HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nxxx")
        assert (await client.post(url, content=body(), headers=signed(body()))).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@every_server
async def test_a_header_that_stands_twice_is_seen_twice(serve: Serve) -> None:
    async with served(serve, receiver()) as (client, url):
        twice = [*signed(body()).items(), ("X-Webhook-Nonce", "x")]
        assert (await client.post(url, content=body(), headers=twice)).status_code == 401


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


EVENT = body()
ZIPPED = zipped(EVENT)
LONG = EVENT.ljust(LIMIT + 1)
COMPRESSED = {
    "gzip": ("gzip", ZIPPED, EVENT, 200),
    "another spelling": ("GZip", ZIPPED, EVENT, 200),
    "identity": ("identity", EVENT, EVENT, 200),
    "signed as compressed": ("gzip", ZIPPED, ZIPPED, 401),
    "two members": ("gzip", zipped(EVENT[:9]) + zipped(EVENT[9:]), EVENT, 200),
    "a second member that nobody signed": ("gzip", ZIPPED + zipped(b" more"), EVENT, 401),
    "cut": ("gzip", ZIPPED[:-12], EVENT, 401),
    "wrong checksum": ("gzip", ZIPPED[:-8] + bytes(8), EVENT, 400),
    "more behind it": ("gzip", ZIPPED + b"no member", EVENT, 400),
    "not gzip": ("gzip", EVENT, EVENT, 400),
    "bomb": ("gzip", zipped(bytes(900_000)), EVENT, 413),
    "bomb of members": ("gzip", zipped(EVENT) + zipped(bytes(LIMIT)), EVENT, 413),
    "one byte too long": ("gzip", zipped(LONG), LONG, 413),
    "just as long as allowed": ("gzip", zipped(LONG[:-1]), LONG[:-1], 200),
    "compressed twice": ("gzip", zipped(ZIPPED), EVENT, 401),
    "deflate": ("deflate", zlib.compress(EVENT), EVENT, 400),
    "a list": ("gzip, gzip", zipped(ZIPPED), EVENT, 400),
    "a list with identity": ("identity, gzip", ZIPPED, EVENT, 400),
    "an alias": ("x-gzip", ZIPPED, EVENT, 400),
    "brotli": ("br", b"anything", EVENT, 400),
    "not told": ("", ZIPPED, EVENT, 401),
}


# aiohttp decodes a body before its handlers run, before 3.14 only the first gzip member.
AFTER_THE_FIRST = ("two members", "a second member that nobody signed", "more behind it", "bomb of members")
READS_ALL = tuple(map(int, version("aiohttp").split(".")[:2])) >= (3, 14)


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(with_starlette, marks=pytest.mark.soak),
        pytest.param(with_fastapi, marks=pytest.mark.soak),
        with_bare_asgi,
        with_aiohttp,
        None,
    ],
)
@pytest.mark.parametrize("name", COMPRESSED)
async def test_a_compressed_body_gets_the_same_answer_from_every_server(serve: Serve | None, name: str) -> None:
    if serve is with_aiohttp and name in AFTER_THE_FIRST and not READS_ALL:
        pytest.skip("aiohttp before 3.14 reads the first gzip member only")
    coding, sent, signed_content, status = COMPRESSED[name]
    to, seen = receiver(), Seen()
    to.on(Event)(seen)
    headers = {**signed(signed_content), "content-encoding": coding}
    if serve is None:
        assert (await to.handle(headers, sent)).status == status
    else:
        async with served(serve, to) as (client, url):
            assert (await client.post(url, content=sent, headers=headers)).status_code == status
    assert len(seen.events) == (status == 200)


async def test_beside_it_the_bots_own_webhook_answers() -> None:
    async with served(with_aiohttp, receiver()) as (client, url):
        reply = await client.post(url.replace("/tgmembership", "/telegram"))
        assert reply.text == "the bot's own webhook"


async def test_a_mounted_receiver_answers_any_path_below() -> None:
    async with served(with_starlette, receiver()) as (client, url):
        address = url.replace("/tgmembership", "/mounted/")
        assert (await client.post(address, content=body(), headers=signed(body()))).status_code == 200


async def test_as_an_application_of_its_own_it_lives_with_the_server(tmp_path: Path) -> None:
    inbox, seen = SqliteInbox(tmp_path / "inbox.db"), Seen()
    to = receiver(inbox=inbox)
    to.on(Event)(seen)
    async with on_uvicorn(to.asgi) as url, httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
        assert inbox.is_open
        assert (await client.post(url, content=body(), headers=signed(body()))).status_code == 200
    assert not inbox.is_open
    assert len(seen.events) == 1


async def test_a_server_does_not_start_with_an_inbox_that_is_in_use(tmp_path: Path) -> None:
    async with SqliteInbox(tmp_path / "inbox.db"):
        to = receiver(inbox=SqliteInbox(tmp_path / "inbox.db"))
        server = uvicorn.Server(uvicorn.Config(to.asgi, port=0, log_config=None, lifespan="on"))
        with contextlib.suppress(SystemExit):  # not raised by older releases of uvicorn
            await server._serve()
        assert not server.started


async def test_in_starlettes_lifespan_it_opens_and_closes(tmp_path: Path) -> None:
    to, seen = receiver(inbox=SqliteInbox(tmp_path / "inbox.db")), Seen()
    to.on(Event)(seen)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with to:
            yield

    app = Starlette(routes=[Route("/tgmembership", to.asgi)], lifespan=lifespan)
    async with on_uvicorn(app) as url, httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
        reply = await client.post(f"{url}/tgmembership", content=body(), headers=signed(body()))
        assert reply.status_code == 200
    assert len(seen.events) == 1


async def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await receiver().asgi({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close"}]


def _connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30)


async def _raw(url: str, head: bytes, again: bytes = b"") -> bytes:
    """Send a request with no end, and return the beginning of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(b"POST /tgmembership HTTP/1.1\r\nhost: x\r\n" + head)
    try:
        for _ in range(20 if again else 0):
            writer.write(again)
        return await asyncio.wait_for(reader.read(100), 30)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_the_package_loads_neither_sqlite_nor_a_framework() -> None:
    loads = "import tgmembership_async.webhooks"
    code = f"import sys, json; before = {{*sys.modules}}; {loads}; print(json.dumps([*{{*sys.modules}} - before]))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not loaded & {"sqlite3", "starlette", "uvicorn", "aiohttp", "fastapi", "click", "httpx"}
