"""Tests of AiohttpTransport only: trio, a missing extra, a user's connector, tracing."""

import asyncio
import sys
import threading
import time
import traceback
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp.client_proto import ResponseHandler
from attrs import evolve
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import (
    AiohttpTransport,
    NotSent,
    OutcomeUnknown,
    ReplyLost,
    Request,
    Response,
    RetryPolicy,
    Session,
    UsageError,
    __version__,
)

ONCE = RetryPolicy(attempts=1)


def session(url: str, **options: Any) -> Session:
    return Session(8047883872, CANARY_KEY, base_url=url, **{"transport": "aiohttp", "retry": ONCE, **options})


def test_on_trio_it_says_what_to_do_instead() -> None:
    async def scenario() -> None:
        async with session("http://127.0.0.1:9") as tg:
            with pytest.raises(UsageError, match="transport='httpx'"):
                await tg.add_member(1, 42)

    anyio.run(scenario, backend="trio")


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "tgmembership_async.transport.aiohttp")
    with pytest.raises(UsageError, match=r"run pip install '\.\[aiohttp\]' in the clone"):
        session("http://127.0.0.1:9")


async def test_a_lent_connector_carries_our_requests_and_stays_open(serve: Any) -> None:
    server = serve(answering(set_cookie="ours=1"))
    async with aiohttp.ClientSession(cookies={"theirs": "1"}, headers={"x-theirs": "1"}) as theirs:
        for _ in range(2):
            async with session(server.url, transport=AiohttpTransport(connector=theirs.connector)) as tg:
                assert await tg.get_plans() == []
                assert (await tg.add_member(1, 42)).raw == []
        assert not theirs.closed
        async with theirs.get(server.url) as answer:
            assert answer.status == 200
        assert {cookie.key for cookie in theirs.cookie_jar} == {"theirs"}
    assert server.connections == 1
    assert not any(b"theirs" in request for request in server.requests[:4])


async def test_on_a_lent_connector_failures_are_judged_the_same(serve: Any, refused_port: int) -> None:
    def hang_up(connection: Any) -> None:
        connection.request()
        connection.reset()

    server = serve(hang_up)
    async with aiohttp.TCPConnector() as connector:
        for url, error in ((server.url, OutcomeUnknown), (f"http://127.0.0.1:{refused_port}", NotSent)):
            async with session(url, transport=AiohttpTransport(connector=connector)) as tg:
                with pytest.raises(error):
                    await tg.add_member(1, 42)


@pytest.mark.parametrize("connector", ["connector", 5, object()])
def test_only_a_connector_can_be_lent(connector: Any) -> None:
    with pytest.raises(UsageError, match="open aiohttp connector"):
        AiohttpTransport(connector=connector)


async def test_a_closed_connector_cannot_be_lent() -> None:
    connector = aiohttp.TCPConnector()
    await connector.close()
    with pytest.raises(UsageError, match="open aiohttp connector"):
        AiohttpTransport(connector=connector)


async def test_whoever_traces_aiohttp_sees_no_key(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    init, request, connect = (
        aiohttp.ClientSession.__init__,
        aiohttp.ClientSession._request,
        aiohttp.TCPConnector.connect,
    )

    async def note(_session: Any, _context: Any, params: Any) -> None:
        seen.append(params)

    def config() -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        for signal in ("request_start", "request_headers_sent", "request_chunk_sent", "request_end"):
            getattr(config, f"on_{signal}").append(note)
        return config

    def traced_init(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, trace_configs=[config()], **options)

    async def traced_request(self: Any, *args: Any, **options: Any) -> Any:
        seen.append((args, options))
        return await request(self, *args, **options)

    async def traced_connect(self: Any, wanted: Any, *args: Any) -> Any:
        connection = await connect(self, wanted, *args)
        seen.append((vars(wanted), wanted.url, wanted.request_info, args, connection))
        return connection

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", traced_init)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", traced_request)
    monkeypatch.setattr(aiohttp.TCPConnector, "connect", traced_connect)
    server = serve(answering())
    async with session(server.url) as tg:
        await tg.get_plans()
        await tg.add_member(1, 42)
    assert len(server.requests) == 2
    assert len(seen) == 2
    assert CANARY_KEY not in repr(seen)


async def test_asyncio_in_debug_mode_tells_no_key(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    def hang_up(connection: Any) -> None:
        connection.request()
        connection.answer(100_000, b"")

    server = serve(hang_up)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    async with session(server.url) as tg:
        for call in (tg.get_plans, tg.delete_webhook, lambda: tg.add_member(1, 42)):
            with pytest.raises(Exception, match=r"sent|may or may not"):
                await call()
    assert "Executing" in caplog.text
    assert CANARY_KEY not in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        (aiohttp.BaseConnector, "connect"),
        (ResponseHandler, "set_response_params"),
        (ResponseHandler, "read"),
        (aiohttp.StreamReader, "readany"),
    ],
    ids=lambda broken: str(broken[1]),
)
async def test_no_frame_of_a_bug_in_aiohttp_shows_the_key(
    broken: tuple[type, str], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise LookupError

    server = serve(answering())
    async with session(server.url) as tg:
        if broken[1] != "connect":  # a lane connects once; the others fail on a connection that was used before
            await tg.get_plans()
        monkeypatch.setattr(*broken, bug)
        with pytest.raises((NotSent, ReplyLost)) as raised:
            await tg.get_plans()
    shown = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    assert "LookupError" in shown
    assert CANARY_KEY not in shown


@pytest.mark.parametrize("name", ["set_response_params", "start_timeout"])
def test_an_aiohttp_that_lacks_what_is_called_is_refused_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ResponseHandler, name)
    with pytest.raises(UsageError, match=r"aiohttp 3\.\S+ lacks .* transport='httpx'"):
        session("http://127.0.0.1:9")


def test_an_aiohttp_that_wants_other_arguments_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp.BaseConnector, "connect", lambda self, request: (self, request))
    with pytest.raises(UsageError, match="lacks"):
        session("http://127.0.0.1:9")


async def test_the_bytes_on_the_wire(serve: Any) -> None:
    server = serve(answering())

    async def theirs(request: Request, call_next: Any) -> Response:
        headers = request.headers.with_("Host", "gate.example").with_("x-note", "caf\xe9")
        answer: Response = await call_next(evolve(request, headers=headers))
        return answer

    async with session(server.url) as tg:
        await tg.get_plans()
        await tg.add_member(1, 42)
        await tg.delete_webhook()
    async with session(server.url, middleware=[theirs]) as tg:
        await tg.get_plans()
    way = f"/bot8047883872/{CANARY_KEY}/"
    ours = f"user-agent: tgmembership-async/{__version__}\r\naccept: application/json\r\naccept-encoding: identity\r\n"
    host = f"host: 127.0.0.1:{server.port}\r\n"
    body = '{"plan_id": 1, "member_id": 42}'
    json = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    assert [request.decode("latin-1") for request in server.requests] == [
        f"GET {way}getPlans HTTP/1.1\r\n{host}{ours}\r\n",
        f"POST {way}addMember HTTP/1.1\r\n{host}{ours}{json}\r\n{body}",
        f"DELETE {way}webhook HTTP/1.1\r\n{host}{ours}content-length: 0\r\n\r\n",
        f"GET {way}getPlans HTTP/1.1\r\nhost: gate.example\r\n{ours}x-note: caf\xe9\r\n\r\n",
    ]


async def test_an_unsolicited_reply_on_a_lent_connector_is_discarded(serve: Any) -> None:
    sent = threading.Event()

    def answers_twice(connection: Any) -> None:
        while connection.request():
            connection.answer()
            time.sleep(0.02)
            connection.answer(body={"ok": True, "code": 200, "result": "SOMEBODY ELSE'S"})
            sent.set()

    server = serve(answers_twice)
    async with (
        aiohttp.TCPConnector() as connector,
        session(server.url, transport=AiohttpTransport(connector=connector)) as tg,
    ):
        await tg.get_plans()
        await asyncio.to_thread(sent.wait, 30)
        assert (await tg.add_member(1, 42)).raw == []
    assert server.connections == 2


async def test_nothing_is_sent_to_a_service_that_sends_data_first(serve: Any) -> None:
    def talks(connection: Any) -> None:
        connection.answer(body={"ok": True, "code": 200, "result": "SOMEBODY ELSE'S"})
        connection.request()

    class Slow(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **options: Any) -> Any:
            connection: Any = await super().connect(*args, **options)
            async with asyncio.timeout(30):
                while not connection.protocol.should_close:  # noqa: ASYNC110 - there is nothing to wait for
                    await asyncio.sleep(0.01)
            return connection

    server = serve(talks)
    async with Slow() as connector, session(server.url, transport=AiohttpTransport(connector=connector)) as tg:
        with pytest.raises(NotSent, match="before the request"):
            await tg.add_member(1, 42)
    assert server.requests == []
