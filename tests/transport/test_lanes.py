"""Lanes: the most recently used first, none after a failed exchange, and none that was idle for too long."""

import errno
import gc
import ssl
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from reply_endings import CLOSING, Ending, closes_without_a_word
from scripted_server import OK_PLANS, answering

from tgmembership_async import HttpxTransport, NotSent, RetryPolicy, Session
from tgmembership_async.transport import lanes as module
from tgmembership_async.transport.httpx_exchange import HttpxLane
from tgmembership_async.transport.lanes import Lanes


class Lane:
    def __init__(self) -> None:
        self.closed = False
        self.idle = True

    def is_idle(self) -> bool:
        return self.idle

    async def aclose(self) -> None:
        self.closed = True
        raise OSError

    def drop(self) -> bool:
        return False


def run_lanes(scenario: Any, backend: str) -> None:
    anyio.run(scenario, backend=backend)


def test_a_lane_comes_back_only_after_a_clean_end(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        made: list[Lane] = []

        def make() -> Lane:
            made.append(Lane())
            return made[-1]

        lanes = Lanes(make)

        async def clean(lane: Lane) -> tuple[Lane, bool]:
            return lane, True

        async def unclean(lane: Lane) -> tuple[Lane, bool]:
            return lane, False

        async def broken(_lane: Lane) -> tuple[Lane, bool]:
            raise LookupError

        first = await lanes.run(clean, unsafe=False)
        assert await lanes.run(clean, unsafe=False) is first
        assert lanes.idle == 1
        with pytest.raises(LookupError):
            await lanes.run(broken, unsafe=False)
        assert first.closed
        assert lanes.idle == 0
        second = await lanes.run(unclean, unsafe=False)
        assert second.closed
        third = await lanes.run(clean, unsafe=False)
        with anyio.CancelScope() as scope:
            scope.cancel()
            monkeypatch.setattr(module, "KEEP_ALIVE", -1.0)
            await lanes.run(clean, unsafe=False)
        assert third.closed, "too old to be used again"
        await lanes.aclose()
        assert lanes.idle == 0
        late = await lanes.run(clean, unsafe=False)
        assert late.closed, "what ends after the close does not come back"

    run_lanes(scenario, backend)


def test_the_warmest_lane_is_taken_first(backend: str) -> None:
    async def scenario() -> None:
        lanes = Lanes(Lane)
        both = anyio.Event()
        inside: list[Lane] = []

        async def together(lane: Lane) -> tuple[Lane, bool]:
            inside.append(lane)
            if len(inside) == 2:
                both.set()
            await both.wait()
            return lane, True

        order: list[Lane] = []

        async def use() -> None:
            order.append(await lanes.run(together, unsafe=False))

        async with anyio.create_task_group() as group:
            group.start_soon(use)
            group.start_soon(use)
        assert lanes.idle == 2

        async def alone(lane: Lane) -> tuple[Lane, bool]:
            return lane, True

        assert await lanes.run(alone, unsafe=False) is order[-1]

    run_lanes(scenario, backend)


def test_a_connection_is_kept_and_a_grant_wants_a_fresh_one(
    serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    server = serve(answering())
    monkeypatch.setattr("tgmembership_async.transport.lanes.KEEP_ALIVE_UNSAFE", -1.0)

    async def scenario() -> None:
        async with session(server.url) as tg:
            for _ in range(3):
                await tg.get_plans()
            assert server.connections == 1
            await tg.add_member(1, 42)
            assert server.connections == 2

    run(scenario)


def test_there_are_never_more_connections_than_asked_for(serve: Any, run: Any, session: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        async with session(server.url, max_connections=3) as tg:
            async with anyio.create_task_group() as group:
                for _ in range(60):
                    group.start_soon(tg.get_plans)
            assert server.connections <= 3

    run(scenario)
    assert len(server.requests) == 60


async def clean(lane: Lane) -> tuple[Lane, bool]:
    return lane, True


def test_a_lane_that_does_not_prove_itself_idle_is_replaced(backend: str) -> None:
    async def scenario() -> None:
        lanes = Lanes(Lane)
        first = await lanes.run(clean, unsafe=False)
        first.idle = False
        assert await lanes.run(clean, unsafe=False) is not first
        assert first.closed

    run_lanes(scenario, backend)


def test_unsafe_requests_get_new_connections_until_one_was_seen_to_stay_open(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: now)
        lanes = Lanes(Lane)
        probe = await lanes.run(clean, unsafe=True)
        second = await lanes.run(clean, unsafe=True)
        assert second is not probe
        assert second.closed, "one is enough for the proof"
        now += 0.06
        assert await lanes.run(clean, unsafe=True) is probe
        assert await lanes.run(clean, unsafe=True) is probe
        probe.idle = False
        third = await lanes.run(clean, unsafe=True)
        assert probe.closed
        assert await lanes.run(clean, unsafe=True) is not third, "the service closed one: a new proof is needed"
        now += 0.06
        third.idle = False
        assert await lanes.run(clean, unsafe=True) is not third
        assert third.closed, "what proves the contrary does not stay"
        assert lanes.idle == 1

    run_lanes(scenario, backend)


def test_a_read_proves_too_that_connections_stay_open(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: now)
        lanes = Lanes(Lane)
        kept = await lanes.run(clean, unsafe=False)
        for pause, is_proven in ((0.01, False), (0.06, True)):
            now += pause
            assert await lanes.run(clean, unsafe=False) is kept
            assert (await lanes.run(clean, unsafe=True) is kept) is is_proven

    run_lanes(scenario, backend)


def test_whoever_throws_a_lane_away_does_not_take_what_others_took_meanwhile(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: now)
        closing, closed = anyio.Event(), anyio.Event()

        class Slow(Lane):
            async def aclose(self) -> None:
                closing.set()
                await closed.wait()

        made = [Slow(), Lane(), Lane()]
        order = iter(made)
        lanes = Lanes(lambda: next(order))
        await lanes.run(clean, unsafe=True)
        made[0].idle = False
        now += 0.06
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: lanes.run(clean, unsafe=True))
            await closing.wait()
            await lanes.run(clean, unsafe=True)
            now += 0.06

            async def prove(lane: Lane) -> tuple[Lane, bool]:
                closed.set()
                await anyio.wait_all_tasks_blocked()
                return lane, True

            assert await lanes.run(prove, unsafe=True) is made[1]
        assert lanes.idle == 2

    run_lanes(scenario, backend)


def once(ending: Ending) -> Callable[[Any], None]:
    def script(connection: Any) -> None:
        connection.request()
        ending(connection, OK_PLANS)

    return script


def closes_after_three(connection: Any) -> None:
    for number in (1, 2, 3):
        if not connection.request():
            return
        connection.answer(**({"connection": "close"} if number == 3 else {}))


CLOSES_SILENTLY = once(closes_without_a_word)
ANNOUNCED = [pytest.param(once(one), id=one.__name__) for one in CLOSING if one is not closes_without_a_word]
ANNOUNCED.append(pytest.param(closes_after_three, id="closes_after_three"))


@pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize("script", [*ANNOUNCED, pytest.param(CLOSES_SILENTLY, id="closes_without_a_word")])
def test_a_server_that_closes_connections_leaves_nothing_unknown(
    script: Callable[[Any], None], number: int, serve: Any, run: Any, session: Any
) -> None:
    server = serve(script)

    async def scenario() -> None:
        async with session(server.url, retry=RetryPolicy(attempts=1)) as tg:
            for member in range(1, 3 * number + 1):
                await tg.add_member(1, member)

            async def grant_some(first: int) -> None:
                for member in range(first, first + number):
                    await tg.add_member(1, member)

            async with anyio.create_task_group() as group:
                for first in range(100, 200, 10):
                    group.start_soon(grant_some, first)

    run(scenario)
    assert len(server.requests) == 13 * number


@pytest.mark.parametrize("script", ANNOUNCED)
def test_a_server_that_says_that_it_closes_costs_a_read_no_attempt(
    script: Callable[[Any], None], serve: Any, run: Any, session: Any
) -> None:
    server = serve(script)

    async def scenario() -> None:
        async with session(server.url, retry=RetryPolicy(attempts=1)) as tg:
            for _ in range(10):
                assert await tg.call("anything")

    run(scenario)
    assert len(server.requests) == 10


def test_a_connection_that_the_server_closed_while_idle_is_not_used(serve: Any, run: Any, session: Any) -> None:
    server = serve(CLOSES_SILENTLY)

    async def scenario() -> None:
        async with session(server.url) as tg:
            for _ in range(5):
                await tg.get_plans()
                await anyio.sleep(0.02)
                assert (await tg.add_member(1, 42)).raw == []
                await anyio.sleep(0.02)

    run(scenario)
    assert server.connections == 10


def test_sessions_that_are_dropped_unclosed_warn_and_close(
    serve: Any, run: Any, session: Any, crossing: tuple[str, str]
) -> None:
    ended = threading.Semaphore(0)

    def script(connection: Any) -> None:
        while connection.request():
            connection.answer()
        ended.release()

    server = serve(script)

    async def use() -> None:
        tg = await session(server.url).open()
        await tg.get_plans()

    async def scenario() -> None:
        for _ in range(5):
            await use()
        gc.collect()
        for _ in range(5):
            assert await anyio.to_thread.run_sync(lambda: ended.acquire(timeout=10))

    with pytest.warns(ResourceWarning) as warned:
        run(scenario)
    if crossing == ("httpx", "asyncio"):
        assert {str(one.message) for one in warned} == {
            "a Session with 1 open connection(s) was not closed: use `async with`, or await aclose()"
        }


@pytest.fixture(params=[False, True], ids=["TCP", "TLS"])
def server_side(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param else None


@pytest.mark.parametrize("crossing", [("httpx", "asyncio"), ("httpx", "trio")], ids="-".join, indirect=True)
def test_a_connection_that_is_closed_after_it_proved_itself_idle_leaves_nothing_unknown(
    serve: Any,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    server_side: ssl.SSLContext | None,
    client_tls: ssl.SSLContext,
) -> None:
    server = serve(CLOSES_SILENTLY, server_side)
    monkeypatch.setattr(HttpxLane, "is_idle", lambda _: True)  # as it was a moment ago

    async def scenario() -> None:
        transport = HttpxTransport(proxy=None, ssl_context=client_tls)
        async with Session(1, "the-key", base_url=server.url, transport=transport, retry=RetryPolicy(attempts=1)) as tg:
            await tg.get_plans()
            await anyio.sleep(0.06)
            with pytest.raises(NotSent, match="nothing was sent"):
                await tg.add_member(1, 42)
            await tg.add_member(1, 42)

    run(scenario)
    assert len(server.requests) == 2


LAST_LOOKS = {
    "httpx-asyncio": ("tgmembership_async.transport.tcp.Connection.is_readable", False),
    "httpx-trio": ("tgmembership_async.transport.httpcore.stream_holds_more", False),
    "aiohttp-asyncio": ("tgmembership_async.transport.aiohttp._is_idle", True),
}


def test_a_write_that_fails_before_its_first_byte_leaves_nothing_unknown(
    serve: Any,
    run: Any,
    way: Any,
    crossing: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    server_side: ssl.SSLContext | None,
    client_tls: ssl.SSLContext,
) -> None:
    """The service resets the connection between the last look and the write."""
    now, over = threading.Event(), threading.Event()

    def script(connection: Any) -> None:
        connection.request()
        connection.answer()
        if len(server.requests) == 1:
            now.wait(30)
            connection.reset()
            over.set()

    server = serve(script, server_side)
    name, is_fine = LAST_LOOKS["-".join(crossing)]

    def last_look(*_: object) -> bool:
        now.set()
        assert over.wait(30)
        return is_fine

    async def scenario() -> None:
        transport = way(proxy=None, ssl_context=client_tls)
        async with Session(1, "the-key", base_url=server.url, transport=transport, retry=RetryPolicy(attempts=1)) as tg:
            await tg.get_plans()
            await anyio.sleep(0.06)
            with monkeypatch.context() as patch:
                patch.setattr(name, last_look)
                if way is HttpxTransport:  # looks before that, too
                    patch.setattr("tgmembership_async.transport.lanes.Lanes._take", warmest)
                with pytest.raises(NotSent, match="nothing was sent"):
                    await tg.add_member(1, 42)
            await tg.add_member(1, 42)

    run(scenario)
    assert len(server.requests) == 2


async def warmest(lanes: Any, **_: object) -> Any:
    """Take a lane without looking at it."""
    return lanes._idle.pop()[0]


@pytest.mark.parametrize(("number", "left"), [(errno.EMFILE, 0), (errno.ECONNREFUSED, 1)])
def test_idle_lanes_are_closed_when_no_descriptor_is_left(number: int, left: int, backend: str) -> None:
    async def scenario() -> None:
        lanes = Lanes(Lane)
        idle: list[Lane] = []

        async def clean(lane: Lane) -> tuple[None, bool]:
            idle.append(lane)
            return None, True

        async def fail(_: Lane) -> tuple[None, bool]:
            raise ConnectionError from OSError(number, "x")

        await lanes.run(clean, unsafe=False)
        with pytest.raises(ConnectionError):  # an unsafe one on a new lane, for the idle one has not proved itself
            await lanes.run(fail, unsafe=True)
        assert lanes.idle == left
        assert idle[0].closed is (left == 0)

    run_lanes(scenario, backend)
