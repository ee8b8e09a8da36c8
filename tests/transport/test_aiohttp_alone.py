"""What only the transport on aiohttp can get wrong: another backend, a missing extra, a connector lent, a tracer."""

import asyncio
import sys
import traceback
from typing import Any

import aiohttp
import anyio
import pytest
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import AiohttpTransport, NotSent, OutcomeUnknown, RetryPolicy, Session, UsageError
from tgmembership_async.transport import aiohttp as module

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
    with pytest.raises(UsageError, match=r"pip install 'tgmembership-async\[aiohttp\]'"):
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

    async def note(_session: Any, _context: Any, params: Any) -> None:
        seen.append(params)

    def config() -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        for signal in ("request_start", "request_headers_sent", "request_chunk_sent", "request_end"):
            getattr(config, f"on_{signal}").append(note)
        return config

    init, request = aiohttp.ClientSession.__init__, aiohttp.ClientSession._request

    def traced_init(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, trace_configs=[config()], **options)

    async def traced_request(self: Any, *args: Any, **options: Any) -> Any:
        seen.append((args, options))
        answer = await request(self, *args, **options)
        seen.append((answer.url, answer.request_info, repr(answer)))
        return answer

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", traced_init)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", traced_request)
    server = serve(answering())
    async with session(server.url) as tg:
        await tg.get_plans()
        await tg.add_member(1, 42)
    assert len(server.requests) == 2
    assert len(seen) == 4
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
    [(aiohttp.ClientRequest, "send"), (aiohttp.ClientResponse, "start"), (aiohttp.http.StreamWriter, "set_eof")],
)
async def test_no_frame_of_a_bug_in_aiohttp_shows_the_key(
    broken: tuple[type, str], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any) -> None:
        raise LookupError

    server = serve(answering())
    async with session(server.url) as tg:
        await tg.get_plans()
        monkeypatch.setattr(*broken, bug)
        with pytest.raises(LookupError) as raised:
            await tg.get_plans()
    shown = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    assert "LookupError" in shown
    assert CANARY_KEY not in shown


async def test_an_aiohttp_that_goes_around_us_gets_no_key(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module._KeyedRequest, "send")
    server = serve(answering())
    async with session(server.url) as tg:
        with pytest.raises(UsageError, match="this version of aiohttp"):
            await tg.add_member(1, 42)
    assert CANARY_KEY.encode() not in b"".join(server.requests)
