"""Large replies: parsing them holds up neither the event loop nor the deadline.

Both are measured in CPU time of the process, and limited by what a piece of work takes at the same time, so that other
programs on the machine do not count.
"""

import gc
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import process_time
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve
from client_combinations import WAYS, session_on

from tgmembership_async import (
    CallError,
    DeadlineExceeded,
    Headers,
    OutcomeUnknown,
    Request,
    Response,
    UnexpectedReply,
    settings,
)
from tgmembership_async.calls import read
from tgmembership_async.large_replies import opened
from tgmembership_async.protocol.endpoints import ALL_ENDPOINTS
from tgmembership_async.protocol.reply_limits import MIB, REPLY_LIMITS
from tgmembership_async.protocol.wire import Progress, Safety, Timeouts

LONGEST_STALL = 0.1
LATEST = 0.25
REFERENCE = 0.0125
"""CPU seconds of `slowness` on the machine for which these limits were set."""
HEAD = b'{"ok":true,"code":200,"result":['
ROW = b'{"user_id":%d,"plan_id":7,"started_at":"2026-01-01 00:00:00","expires_at":"2027-01-01 00:00:00"},'
CHUNKS = b"1\r\n \r\n" * MIB + b"0\r\n\r\n"
each_way = pytest.mark.parametrize(("way", "backend"), WAYS)


def array(item: bytes, size: int, last: bytes = b"{}") -> bytes:
    return HEAD + item * (size // len(item)) + last + b"]}"


def answering(body: bytes, *fields: bytes) -> Callable[[Any], None]:
    """Return a script that answers with these bytes; in chunks, if the header fields say so."""
    if b"transfer-encoding: chunked" not in fields:
        fields = (*fields, b"content-length: %d" % len(body))

    def script(connection: Any) -> None:
        while connection.request():
            connection.send(b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"", b""]) + body)

    return script


def slowness() -> float:
    """Return how many times longer this machine takes now, as others share it; at least 1."""
    begin, total = process_time(), 0
    for number in range(200_000):
        total += number
    return max(1.0, (process_time() - begin) / REFERENCE)


@asynccontextmanager
async def no_stall() -> AsyncIterator[None]:
    """Fail if the event loop is blocked for too long."""
    gaps: list[float] = []
    slow = slowness()

    async def beat() -> None:
        last = process_time()
        while True:
            await anyio.sleep(0.001)
            gaps.append(process_time() - last)
            last = process_time()

    gc.freeze()  # so that garbage collection does not traverse objects of earlier tests
    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        await checkpoint()
        yield
        await anyio.sleep(0.002)
        group.cancel_scope.cancel()
    assert max(gaps) < LONGEST_STALL * max(slow, slowness())


async def end_of(call: Any) -> Any:
    try:
        return await call
    except CallError as error:
        return error


REPLIES: list[tuple[bytes, type[CallError], str]] = [
    (array(b"{},", 15 * MIB), UnexpectedReply, "too many values"),
    (array(b"1,", 4 * MIB), UnexpectedReply, "too many values"),
    (array(b'{"a":{"b":1},"c":1},', MIB), DeadlineExceeded, "changed nothing"),
    (array(b"{},", MIB // 2, b"1"), UnexpectedReply, r"\$\[174762\]: expected an object"),
    (array(b'{"user_id":1.5},', MIB), DeadlineExceeded, "changed nothing"),
    (array(b"[],", 17 * MIB), UnexpectedReply, "too large"),
]


@pytest.mark.parametrize(
    ("way", "backend", "body", "kind", "words"), [(*w, *r) for w, r in zip(WAYS, REPLIES, strict=True)]
)
def test_a_large_reply_stops_neither_the_loop_nor_the_deadline(
    way: str, serve: Any, run: Any, body: bytes, kind: type[CallError], words: str
) -> None:
    server = serve(answering(body))
    deadline = 0.1 if kind is DeadlineExceeded else 0.5

    async def scenario() -> None:
        async with session_on(way, server.url, deadline=deadline) as tg:
            async with no_stall():
                begin = process_time()
                error = await end_of(tg.get_subscribers())
                spent = process_time() - begin
            assert spent < deadline + LATEST * slowness()
            assert isinstance(error, DeadlineExceeded) or (isinstance(error, kind) and re.search(words, str(error)))

    run(scenario)


@each_way
def test_a_reply_in_chunks_of_one_byte_stops_neither(way: str, serve: Any, run: Any) -> None:
    server = serve(answering(CHUNKS, b"transfer-encoding: chunked"))

    async def scenario() -> None:
        async with session_on(way, server.url, deadline=0.2) as tg:
            async with no_stall():
                begin = process_time()
                error = await end_of(tg.get_subscribers())
                spent = process_time() - begin
            assert spent < 0.2 + LATEST * slowness()
            assert isinstance(error, DeadlineExceeded | UnexpectedReply)

    run(scenario)


@each_way
def test_a_cancelled_reader_leaves_no_connection(way: str, serve: Any, run: Any) -> None:
    server = serve(answering(CHUNKS, b"transfer-encoding: chunked"))

    async def scenario() -> None:
        async with session_on(way, server.url) as tg:
            for number in range(3):
                async with anyio.create_task_group() as group:
                    group.start_soon(tg.get_subscribers)
                    while server.connections == number:  # noqa: ASYNC110 - the server is in a thread
                        await anyio.sleep(0.005)
                    group.cancel_scope.cancel()
        assert server.connections == 3

    run(scenario)


@each_way
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_large_reply_is_read_whole(way: str, serve: Any, run: Any, is_compressed: bool) -> None:  # noqa: FBT001
    body = HEAD + b"".join(ROW % number for number in range(1, 10_001)) + b"{}]}"
    server = serve(answering(gzip.compress(body, 1), b"content-encoding: gzip"))
    if not is_compressed:
        server = serve(answering(body))

    async def scenario() -> None:
        async with session_on(way, server.url) as tg:
            async with no_stall():
                subscribers = await tg.get_subscribers()
            assert [subscriber.user_id for subscriber in subscribers] == [*range(1, 10_001), None]

    run(scenario)


@each_way
def test_a_grant_takes_up_to_64_kib_and_beyond_them_is_unknown(way: str, serve: Any, run: Any) -> None:
    def script(connection: Any) -> None:
        while connection.request():
            length = lengths.pop()
            connection.answer(body={"ok": True, "code": 200, "result": "x" * length})

    lengths = [66_000, 65_000]

    server = serve(script)

    async def scenario() -> None:
        async with session_on(way, server.url) as tg:
            assert (await tg.add_member(1, 42)).token == "x" * 65_000
            assert isinstance(await end_of(tg.add_member(1, 42)), OutcomeUnknown)

    run(scenario)


def test_each_method_has_a_limit() -> None:
    assert set(REPLY_LIMITS) == {endpoint.method for endpoint in ALL_ENDPOINTS}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_deadline_that_passes_after_the_reply_came_ends_reads_and_no_unsafe_call(run: Any) -> None:
    body = array(ROW % 5, 100_000)
    account = settings.account(1, "key", settings.BASE_URL, "json", "unknown")

    def request(safety: Safety) -> Request:
        progress = Progress(started=anyio.current_time(), deadline=anyio.current_time())
        return Request("other", "GET", {}, safety, account, Timeouts(1, 1), progress)

    async def scenario() -> None:
        safe, unsafe = request(Safety.SAFE), request(Safety.UNSAFE)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await opened(Response(200, Headers(), body), safe)
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            response = await opened(Response(200, Headers(), body), unsafe)
        assert response.parsed is not None
        assert evolve(response, status=201).envelope is response.envelope
        assert evolve(response, body=b"{}").envelope != response.envelope
        with pytest.raises(DeadlineExceeded):
            await read(lambda rows: rows, response, safe)
        assert await read(len, response, unsafe) == len(json.loads(body)["result"])

    run(scenario)
