"""Each row of the outcome table on real sockets: the error, and the number of requests sent."""

import gzip
import json
import socket
from typing import Any

import anyio
import pytest
from scripted_server import answering, cut, drop, reset

from tgmembership_async import (
    APIError,
    BadRequest,
    CallError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    ReplyLost,
    RetryPolicy,
    ServerError,
    UnexpectedReply,
)

GRANTED = {"ok": True, "code": 200, "result": "TOKEN-1"}


def reset_unread(connection: Any) -> None:
    connection.sock.recv(1)
    connection.reset()


def garbage(connection: Any) -> None:
    connection.request()
    connection.send(b"\x16\x03\x01 not http\r\n\r\n")


LOST = [drop, reset, reset_unread, cut, garbage]
NOT_THE_ENVELOPE = [
    answering(200, b"<html>maintenance</html>"),
    answering(502, b"<html>bad gateway</html>"),
    answering(404, b"not found"),
    answering(200, b""),
    answering(200, b"[]"),
    answering(200, b'{"ok": true, "cod'),
    answering(200, b"[" * 100_000),
    answering(301, b"", location="https://elsewhere.example/"),
    answering(200, {"ok": "yes", "code": 200}),
    answering(200, b"not gzip at all", content_encoding="gzip"),
    answering(200, gzip.compress(b"x" * 100)[:-9], content_encoding="gzip"),
    answering(200, b"whatever", content_encoding="br"),
]


@pytest.mark.parametrize("script", LOST)
def test_a_lost_reply_is_retried_for_a_read_and_never_for_a_grant(
    script: Any, serve: Any, run: Any, session: Any
) -> None:
    server = serve(script)

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(ReplyLost) as lost:
                await tg.get_plans()
            assert lost.value.attempts == 4
            assert not lost.value.maybe_applied
            before = server.connections
            with pytest.raises(OutcomeUnknown) as unknown:
                await tg.add_member(1, 42)
            assert unknown.value.attempts == 1
            assert unknown.value.maybe_applied
            assert isinstance(unknown.value.cause, ReplyLost)
            assert server.connections <= before + 1

    run(scenario)


@pytest.mark.parametrize("script", NOT_THE_ENVELOPE)
def test_an_answer_without_the_envelope_proves_nothing(script: Any, serve: Any, run: Any, session: Any) -> None:
    server = serve(script)

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(UnexpectedReply) as reply:
                await tg.get_plans()
            assert reply.value.attempts == 4
            with pytest.raises(OutcomeUnknown) as unknown:
                await tg.add_member(1, 42)
            assert unknown.value.attempts == 1
            assert isinstance(unknown.value.cause, UnexpectedReply)

    run(scenario)
    assert len(server.requests) == 5


def test_a_500_is_retried_for_a_read_and_unknown_for_a_grant(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(500, {"ok": False, "code": 500, "description": "oops"}))

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(ServerError, match="500 oops"):
                await tg.count_users()
            with pytest.raises(OutcomeUnknown) as unknown:
                await tg.add_member(1)
            assert isinstance(unknown.value.cause, ServerError)
            with pytest.raises(ServerError) as idempotent:
                await tg.delete_webhook()
            assert idempotent.value.maybe_applied

    run(scenario)
    assert len(server.requests) == 4 + 1 + 4


def test_a_refused_connection_is_retried_for_all_and_was_never_sent(refused_port: int, run: Any, session: Any) -> None:
    async def scenario() -> None:
        async with session(f"http://127.0.0.1:{refused_port}") as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42), tg.delete_webhook):
                with pytest.raises(NotSent) as not_sent:
                    await call()
                assert not_sent.value.attempts == 4
                assert not not_sent.value.maybe_applied

    run(scenario)


def test_a_connect_timeout_was_never_sent(run: Any, session: Any) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))

        async def scenario() -> None:
            once = RetryPolicy(attempts=1)
            async with session(f"http://127.0.0.1:{port}", connect_timeout=0.1, retry=once) as tg:
                with pytest.raises(NotSent, match=r"Connect(ion)?Timeout"):
                    await tg.add_member(1, 42)

        run(scenario)
        for sock in waiting:
            sock.close()


def test_a_silent_server_is_a_lost_reply_after_the_read_timeout(serve: Any, run: Any, session: Any) -> None:
    def silent(connection: Any) -> None:
        connection.request()
        connection.sock.recv(1)

    server = serve(silent)

    async def scenario() -> None:
        once = RetryPolicy(attempts=1)
        async with session(server.url, read_timeout=0.1, grant_timeout=0.2, retry=once) as tg:
            with pytest.raises(ReplyLost, match=r"(Read|Socket)Timeout"):
                await tg.get_plans()
            with pytest.raises(OutcomeUnknown):
                await tg.add_member(1, 42)

    run(scenario)


def test_a_dribbled_grant_is_bounded_as_a_whole(serve: Any, run: Any, session: Any) -> None:
    def dribble(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(200):
            connection.send(b" ")
            if connection.server.stop.wait(0.05):
                return

    server = serve(dribble)
    import threading  # noqa: PLC0415

    server.stop = threading.Event()

    async def scenario() -> None:
        async with session(server.url, read_timeout=5, grant_timeout=0.3) as tg:
            with pytest.raises(OutcomeUnknown, match=r"no complete reply within 0\.3 s"):
                await tg.add_member(1, 42)

    run(scenario)
    server.stop.set()


@pytest.mark.parametrize("status", [421, 425, 429])
@pytest.mark.parametrize("body", [b"", {"ok": False, "code": 0}], ids=["bare", "envelope"])
def test_a_request_turned_away_is_sent_again_for_all(
    status: int, body: Any, serve: Any, run: Any, session: Any
) -> None:
    turned_away = body if body == b"" else {**body, "code": status}

    def script(connection: Any) -> None:
        while connection.request():
            if len(connection.server.requests) % 3:
                connection.answer(status, turned_away)
            else:
                connection.answer(200, GRANTED)

    server = serve(script)

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert (await tg.add_member(1, 42)).token == "TOKEN-1"
            assert (await tg.call("anything")).attempts == 3

    run(scenario)
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_beyond_the_deadline_raises_at_once(status: int, serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(status, {"ok": False, "code": status}, retry_after="3600"))

    async def scenario() -> None:
        async with session(server.url, deadline=5) as tg:
            with pytest.raises(APIError) as turned_away:
                await tg.add_member(1, 42)
            assert turned_away.value.retry_after == 3600
            assert turned_away.value.code == status
            assert not turned_away.value.maybe_applied
            with pytest.raises(RateLimited, match="nothing was sent") as paused:
                await tg.get_plans()
            assert paused.value.attempts == 0
            assert 3590 < (paused.value.retry_after or 0) <= 3600

    run(scenario)
    assert len(server.requests) == 1


@pytest.mark.parametrize("headers", [{}, {"retry_after": "5"}, {"retry_after": "soon"}], ids=["", "wait", "odd"])
def test_a_503_of_a_gateway_proves_nothing_and_pauses_nobody(
    headers: dict[str, str], serve: Any, run: Any, session: Any
) -> None:
    def varnish(connection: Any) -> None:
        while connection.request():
            if b"addMember" in connection.server.requests[-1]:
                connection.answer(503, b"<h1>Error 503 Backend fetch failed</h1>", **headers)
            else:
                connection.answer(200, {"ok": True, "code": 200, "result": 7})

    server = serve(varnish)

    async def scenario() -> None:
        async with session(server.url, deadline=3) as tg:
            with pytest.raises(OutcomeUnknown) as unknown:
                await tg.add_member(1, 42)
            assert isinstance(unknown.value.cause, UnexpectedReply)
            assert unknown.value.attempts == 1
            assert int(await tg.count_orders()) == 7, "a pause of 5 s would outlast the deadline"

    run(scenario)
    assert len(server.requests) == 2


def test_a_read_follows_the_wait_of_a_gateways_503_where_the_deadline_allows(
    serve: Any, run: Any, session: Any
) -> None:
    def script(connection: Any) -> None:
        while connection.request():
            if len(connection.server.requests) == 1:
                connection.answer(503, b"<h1>try later</h1>", retry_after="0.3")
            elif len(connection.server.requests) == 2:
                connection.answer(503, b"<h1>try later</h1>", retry_after="3600")
            else:
                connection.answer(200, {"ok": True, "code": 200, "result": 7})

    server = serve(script)

    async def scenario() -> None:
        async with session(server.url, deadline=20) as tg:
            began = anyio.current_time()
            assert int(await tg.count_orders()) == 7
            assert anyio.current_time() - began >= 0.3

    run(scenario)
    assert len(server.requests) == 3


def test_a_gateway_that_is_known_to_refuse_is_believed(serve: Any, run: Any, session: Any) -> None:
    def limit_req(connection: Any) -> None:
        while connection.request():
            if len(connection.server.requests) < 3:
                connection.answer(503, b"<h1>503 Service Temporarily Unavailable</h1>")
            else:
                connection.answer(200, GRANTED)

    server = serve(limit_req)

    async def scenario() -> None:
        async with session(server.url, gateway_503="turned away") as tg:
            assert (await tg.add_member(1, 42)).token == "TOKEN-1"

    run(scenario)
    assert len(server.requests) == 3


def test_a_refusal_is_final(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(404, {"ok": False, "code": 404, "description": "no such plan"}))

    async def scenario() -> None:
        async with session(server.url) as tg:
            for call in (tg.get_plans, lambda: tg.add_member(1, 42)):
                with pytest.raises(NotFound) as refused:
                    await call()
                assert refused.value.attempts == 1
                assert not refused.value.maybe_applied

    run(scenario)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("code", "result"),
    [(200, None), (500, {"x": []}), ("what", [[[]]]), (None, 5), ([], "https://t.me/b?start=T"), (200, {"token": 7})],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_grant_with_ok_true_never_raises(
    code: object, result: object, status: int, serve: Any, run: Any, session: Any
) -> None:
    server = serve(answering(status, {"ok": True, "code": code, "result": result}))

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert (await tg.add_member(1, 42)).raw == result

    run(scenario)
    assert len(server.requests) == 1


def test_a_read_with_a_result_of_no_accepted_shape_is_not_retried(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(200, {"ok": True, "code": 200, "result": [{"plan_id": "many"}]}))

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(UnexpectedReply, match="no accepted shape") as shape:
                await tg.get_plans()
            assert shape.value.attempts == 1

    run(scenario)
    assert len(server.requests) == 1


def test_an_endless_body_is_cut_off_and_its_connection_thrown_away(serve: Any, run: Any, session: Any) -> None:
    def endless(connection: Any) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1526):
            connection.send(b"x" * 65536)

    server = serve(endless)

    async def scenario() -> None:
        async with session(server.url, retry=RetryPolicy(attempts=1)) as tg:
            with pytest.raises(UnexpectedReply, match="too large") as reply:
                await tg.get_plans()
            assert len(reply.value.body) == 65_536

    run(scenario)


def test_a_zip_bomb_is_cut_off_by_its_decoded_size(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(200, gzip.compress(b" " * 20_000_000, 1), content_encoding="gzip"))

    async def scenario() -> None:
        async with session(server.url, retry=RetryPolicy(attempts=1)) as tg:
            with pytest.raises(UnexpectedReply, match="too large"):
                await tg.get_plans()

    run(scenario)


def test_a_compressed_reply_is_read_though_nobody_asked(serve: Any, run: Any, session: Any) -> None:
    server = serve(
        answering(
            200, gzip.compress(json.dumps({"ok": True, "code": 1, "result": 7}).encode()), content_encoding="gzip"
        )
    )

    async def scenario() -> None:
        async with session(server.url) as tg:
            assert int(await tg.count_orders()) == 7

    run(scenario)


def test_a_lost_reply_then_no_connection_does_not_claim_that_nothing_was_sent(
    serve: Any, run: Any, session: Any
) -> None:
    def once(connection: Any) -> None:
        connection.server._listener.close()
        connection.request()
        connection.reset()

    server = serve(once)

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(ReplyLost) as lost:
                await tg.set_webhook("https://shop.example/hook")
            assert lost.value.maybe_applied

    run(scenario)


def test_every_error_is_a_call_error_with_its_facts(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering(400, {"ok": False, "code": 400, "description": "bad plan", "request_id": "r9"}))

    async def scenario() -> None:
        async with session(server.url) as tg:
            with pytest.raises(CallError) as error:
                await tg.add_member(1)
            assert isinstance(error.value, BadRequest)
            assert error.value.method == "addMember"
            assert error.value.request_id == "r9"
            assert error.value.elapsed > 0
            assert error.value.__cause__ is None
            assert error.value.__context__ is None

    run(scenario)
