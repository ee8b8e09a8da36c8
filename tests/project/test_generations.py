"""What holds for the legacy API holds for v1 and v2: outcomes, hostile replies, deadlines, cancellation, secrecy."""

import asyncio
import gzip
import logging
import pickle
import ssl
import threading
import traceback
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from project.generations import KINDS, Kind, lines_of
from scripted_server import answering, cut, drop, reset

from tgmembership_async import (
    AiohttpTransport,
    APIError,
    CallError,
    DeadlineExceeded,
    HttpxTransport,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    ReplyLost,
    RetryPolicy,
    ServerError,
    UnexpectedReply,
)

ONCE = RetryPolicy(attempts=1)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture
def backend(crossing: tuple[str, str]) -> str:
    return crossing[1]


@each_kind
@pytest.mark.parametrize("script", [drop, reset, cut])
def test_a_lost_reply_is_retried_unless_the_call_is_unsafe(
    kind: Kind, script: Any, serve: Any, run: Any, library: str
) -> None:
    server = serve(script)

    async def scenario() -> None:
        async with kind.open(server.url, transport=library) as client:
            for call in (kind.read, kind.set):
                with pytest.raises(ReplyLost) as lost:
                    await call(client)
                assert lost.value.attempts == 4
            assert lost.value.maybe_applied
            before = server.connections
            with pytest.raises(OutcomeUnknown) as unknown:
                await kind.unsafe(client)
            assert unknown.value.attempts == 1
            assert isinstance(unknown.value.cause, ReplyLost)
            assert server.connections <= before + 1

    run(scenario)


@each_kind
@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"<html>maintenance</html>", {}),
        (404, b"not found", {}),
        (200, b"", {}),
        (200, b"[]", {}),
        (200, b'{"ok": true, "cod', {}),
        (200, b"[" * 100_000, {}),
        (301, b"", {"location": "https://elsewhere.example/"}),
        (200, b'{"ok": "yes", "code": 200, "data": [], "result": []}', {}),
        (200, b'{"data": []}', {}),
        (200, gzip.compress(b"x" * 100, mtime=0)[:-9], {"content_encoding": "gzip"}),
        (503, b"<h1>Backend fetch failed</h1>", {"retry_after": "0"}),
    ],
)
def test_an_answer_without_the_envelope_proves_nothing(
    kind: Kind, status: int, body: bytes, headers: dict[str, str], serve: Any, run: Any
) -> None:
    server = serve(answering(status, body, **headers))

    async def scenario() -> None:
        async with kind.open(server.url) as client:
            with pytest.raises(UnexpectedReply) as reply:
                await kind.read(client)
            assert reply.value.attempts == 4
            with pytest.raises(OutcomeUnknown) as unknown:
                await kind.unsafe(client)
            assert unknown.value.attempts == 1

    run(scenario)
    assert len(server.requests) == 5


@each_kind
@pytest.mark.parametrize("status", [204, 304])
def test_no_body_is_done_in_later_generations_but_for_what_must_not_be_repeated(
    kind: Kind, status: int, serve: Any, run: Any, library: str
) -> None:
    def empty(connection: Any) -> None:
        while connection.request():
            connection.send(f"HTTP/1.1 {status} X\r\n\r\n".encode())

    server = serve(empty)

    async def scenario() -> None:
        async with kind.open(server.url, transport=library) as client:
            if kind.name == "legacy":
                with pytest.raises(UnexpectedReply):
                    await kind.set(client)
            else:
                await kind.set(client)
            with pytest.raises(OutcomeUnknown):
                await kind.unsafe(client)

    run(scenario)
    assert len(server.requests) == (5 if kind.name == "legacy" else 2)


@each_kind
def test_a_500_is_unknown_for_what_must_not_be_repeated(kind: Kind, serve: Any, run: Any) -> None:
    server = serve(answering(500, kind.error(500, "oops")))

    async def scenario() -> None:
        async with kind.open(server.url) as client:
            with pytest.raises(ServerError, match="oops"):
                await kind.set(client)
            with pytest.raises(OutcomeUnknown):
                await kind.unsafe(client)

    run(scenario)
    assert len(server.requests) == 4 + 1


@each_kind
def test_a_refused_connection_was_never_sent(kind: Kind, refused_port: int, run: Any, library: str) -> None:
    async def scenario() -> None:
        async with kind.open(f"http://127.0.0.1:{refused_port}", transport=library) as client:
            for call in (kind.read, kind.set, kind.unsafe):
                with pytest.raises(NotSent) as not_sent:
                    await call(client)
                assert not_sent.value.attempts == 4
                assert not not_sent.value.maybe_applied

    run(scenario)


@each_kind
def test_a_refusal_is_final_and_in_the_words_of_the_service(kind: Kind, serve: Any, run: Any) -> None:
    server = serve(answering(404, kind.error(404, "no such thing")))

    async def scenario() -> None:
        async with kind.open(server.url) as client:
            for call in (kind.read, kind.set, kind.unsafe):
                with pytest.raises(NotFound, match="no such thing") as refused:
                    await call(client)
                assert refused.value.description == "no such thing"
                assert not refused.value.maybe_applied

    run(scenario)
    assert len(server.requests) == 3


@each_kind
@pytest.mark.parametrize("status", [421, 425, 429, 503])
def test_what_is_turned_away_is_sent_again(kind: Kind, status: int, serve: Any, run: Any) -> None:
    def script(connection: Any) -> None:
        while connection.request():
            if len(connection.server.requests) == 1:
                connection.answer(status, kind.error(status, "later"))
            else:
                connection.answer(201, kind.ok({"payment_request_id": "x"}, 201))

    server = serve(script)

    async def scenario() -> None:
        async with kind.open(server.url) as client:
            await kind.unsafe(client)

    run(scenario)
    assert len(server.requests) == 2


@each_kind
def test_a_wait_beyond_the_deadline_raises_at_once(kind: Kind, serve: Any, run: Any) -> None:
    server = serve(answering(429, kind.error(429, "slow down"), retry_after="3600"))

    async def scenario() -> None:
        async with kind.open(server.url, deadline=5) as client:
            for call in (kind.unsafe, kind.read):
                with pytest.raises(RateLimited) as limited:
                    await call(client)
                assert 3590 < (limited.value.retry_after or 0) <= 3600

    run(scenario)
    assert len(server.requests) == 1


@each_kind
def test_the_deadline_bounds_the_whole_call(kind: Kind, serve: Any, run: Any, library: str) -> None:
    over = threading.Event()

    def silent(connection: Any) -> None:
        connection.request()
        over.wait(20)

    server = serve(silent)

    async def scenario() -> None:
        async with kind.open(server.url, deadline=0.2, retry=ONCE, transport=library) as client:
            with pytest.raises(DeadlineExceeded):
                await kind.read(client)
            with pytest.raises(OutcomeUnknown):
                await kind.unsafe(client)

    try:
        run(scenario)
    finally:
        over.set()


@each_kind
def test_a_storm_of_cancellations_poisons_no_later_call(kind: Kind, serve: Any, run: Any, library: str) -> None:
    server = serve(answering(200, kind.ok([])))

    async def read(client: Any) -> None:
        await kind.read(client)

    async def scenario() -> None:
        async with kind.open(server.url, max_connections=3, transport=library) as client:
            for number in range(12):
                async with anyio.create_task_group() as group:
                    for _ in range(4):
                        group.start_soon(read, client)
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
            for _ in range(4):
                await kind.read(client)

    run(scenario)


# Secrecy


def texts_of(error: BaseException) -> list[str]:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [*shown.format(), repr(error), repr(vars(error)), pickle.dumps(error).decode("latin-1")]


def garbage(connection: Any) -> None:
    connection.request()
    connection.send(f"HTTP/1.1 {CANARY_KEY}\r\n\r\n".encode())


ESCAPED = "".join(f"\\u{ord(char):04x}" for char in CANARY_KEY)


def echoes(kind: Kind) -> dict[str, Callable[[Any], None]]:
    """Return servers that fail in various ways and show the credentials in each."""
    refused = f'{{"ok": false, "code": 404, "description": "{ESCAPED}", "error": {{"message": "{ESCAPED}"}}}}'
    return {
        "refused": answering(404, kind.error(404, f"Bearer {CANARY_KEY} /bot8047883872/{CANARY_KEY}/")),
        "escaped": answering(404, refused.encode()),
        "html": answering(502, f"<html>{CANARY_KEY}</html>".encode()),
        "redirect": answering(302, b"", location=f"https://elsewhere.example/{CANARY_KEY}", x_echo=CANARY_KEY),
        "garbage": garbage,
        "drop": drop,
        "shape": answering(200, kind.ok([CANARY_KEY, {"api_key": CANARY_KEY}])),
        "ok": answering(200, {**kind.ok({"api_key": CANARY_KEY, "id": CANARY_KEY}), "path": CANARY_KEY}),
    }


@each_kind
@pytest.mark.parametrize("name", list(echoes(KINDS[0])))
def test_the_credentials_are_on_the_wire_and_nowhere_else(
    kind: Kind, name: str, serve: Any, run: Any, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(echoes(kind)[name])
    texts: list[str] = []

    async def look(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        texts.extend([repr(request), repr(list(request.headers)), repr(response), response.body.decode()])
        texts.append(repr(response.envelope))
        return response

    async def scenario() -> None:
        options: dict[str, Any] = {"attempt_middleware": [look], "observer": lambda end: texts.append(repr(end))}
        async with kind.open(server.url, transport=library, retry=ONCE, **options) as client:
            for call in (kind.read, kind.set, kind.unsafe):
                try:
                    texts.append(repr(await call(client)))
                except CallError as error:
                    texts.extend(texts_of(error))
            texts.append(repr(client) + repr(vars(client)))

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    for request in server.requests:
        assert kind.secret in request
        assert request.count(CANARY_KEY.encode()) == 1
    assert len(server.requests) == 3
    for text in (*texts, caplog.text):
        assert CANARY_KEY not in text
        assert ESCAPED not in text


@each_kind
def test_no_proxy_is_told_the_credentials(
    kind: Kind, serve: Any, run: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, library: str
) -> None:
    server = serve(answering(200, kind.ok([])), server_tls)

    def tunnel(connection: Any) -> None:
        if connection.request():
            connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.pipe("127.0.0.1", server.port)

    proxy = serve(tunnel)
    transport = HttpxTransport if library == "httpx" else AiohttpTransport

    async def scenario() -> None:
        made: Any = transport(ssl_context=client_tls, proxy=proxy.url)
        async with kind.open(server.url, transport=made) as client:
            await kind.read(client)

    run(scenario)
    assert kind.secret in server.requests[0]
    assert all(CANARY_KEY.encode() not in request for request in proxy.requests)


@each_kind
def test_a_cancelled_call_leaves_no_traceback_with_the_credentials(kind: Kind, serve: Any) -> None:
    arrived = threading.Semaphore(0)

    def hang(connection: Any) -> None:
        connection.request()
        arrived.release()
        connection.sock.recv(1)

    server = serve(hang)
    texts: list[str] = []

    async def scenario() -> None:
        async with kind.open(server.url) as client:
            for call in (kind.read, kind.unsafe):
                task = asyncio.ensure_future(call(client))
                assert await asyncio.to_thread(arrived.acquire, timeout=60)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError as error:
                    texts.extend(texts_of(error))

    anyio.run(scenario)
    assert texts
    assert CANARY_KEY not in "".join(texts)


@each_kind
def test_a_lent_client_sends_the_credentials_too(kind: Kind, serve: Any, run: Any) -> None:
    import httpx  # noqa: PLC0415

    server = serve(answering(200, kind.ok({"id": "x"})))
    seen: list[str] = []

    async def hook(request: httpx.Request) -> None:
        seen.append(repr(request.headers.raw) + str(request.url))

    async def scenario() -> None:
        async with (
            httpx.AsyncClient(trust_env=False, event_hooks={"request": [hook]}) as lent,
            kind.open(server.url, transport=HttpxTransport(client=lent)) as client,
        ):
            await kind.unsafe(client)

    run(scenario)
    assert kind.secret in server.requests[0]
    assert seen
    assert CANARY_KEY not in seen[0]


def test_v1_sends_what_its_pages_show(serve: Any, run: Any) -> None:
    v1 = KINDS[1]
    server = serve(answering(201, {**v1.ok("TOKEN", 201), "request_id": "r-9", "method": "POST", "path": "/x"}))

    async def scenario() -> None:
        async with v1.open(server.url) as tg:
            assert tg.generation == "v1"
            assert (await tg.add_member(1, 42)).token == "TOKEN"
            reply = await tg.call("bot")
            assert reply.request_id == "r-9"
            assert reply.extra == {"method": "POST", "path": "/x"}

    run(scenario)
    assert lines_of(server.requests[0]) == (
        "POST /v1/bot8047883872/-/members/accessToken HTTP/1.1",
        {"plan_id": 1, "member_id": "42"},
    )
    assert lines_of(server.requests[1])[0] == "GET /v1/bot8047883872/-/bot HTTP/1.1"


@pytest.mark.parametrize(
    ("description", "told"), [("Test mode is on", "401 Test mode is on"), (None, "no live payment method, test mode")]
)
def test_a_401_of_v1_is_told_in_its_own_words(description: Any, told: str, serve: Any, run: Any) -> None:
    v1 = KINDS[1]
    server = serve(answering(401, v1.error(401, description)))

    async def scenario() -> None:
        async with v1.open(server.url) as tg:
            with pytest.raises(APIError, match=told) as refused:
                await tg.add_member(1, 42)
            assert "key" not in str(refused.value)

    run(scenario)
