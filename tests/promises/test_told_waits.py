"""No call shortens Retry-After, or ends a pause early."""

from random import Random
from typing import Any

import anyio
import pytest
import trio
from attrs import frozen
from canary import CANARY_KEY
from hypothesis import given
from hypothesis import strategies as st
from stub_transport import StubTransport, reply
from trio.testing import MockClock

from tgmembership_async import CallError, RateLimit, RateLimited, Request, Response, RetryPolicy, Session
from tgmembership_async.protocol.gate import GateReply


@frozen
class Turn:
    """One request: when it was sent, when its reply arrived, and the Retry-After of the reply, if any."""

    left: float
    back: float
    told: float | None


BUSY = '{"ok": false, "code": 503}'


class Service:
    """A service that answers after some time; random replies, by a seed, have Retry-After."""

    def __init__(self, seed: int, share: float) -> None:
        self.random = Random(seed)
        self.share = share
        self.turns: list[Turn] = []

    async def __call__(self, _request: Request) -> Response:
        left = anyio.current_time()
        await anyio.sleep(self.random.uniform(0, 2))
        told = round(self.random.uniform(0, 30), 1) if self.random.random() < self.share else None
        self.turns.append(Turn(left, anyio.current_time(), told))
        if told is None:
            return reply('{"ok": true, "code": 200, "result": "tok"}')
        return self.random.choice([reply("", 429, retry_after=str(told)), reply(BUSY, 503, retry_after=str(told))])

    def step(self) -> Any:
        async def step(request: Request) -> Response:
            return await self(request)

        return step


def check(turns: list[Turn]) -> None:
    """Check that no request was sent between a reply with Retry-After and the end of that time."""
    pauses = [(turn.back, turn.back + turn.told) for turn in turns if turn.told]
    for turn in turns:
        for begin, end in pauses:
            assert not begin < turn.left < end - 1e-6, f"left at {turn.left} during the pause {begin} to {end}"


@pytest.mark.parametrize("limit", [None, RateLimit(3, 1.0)])
@given(seed=st.integers(0, 10_000), places=st.integers(1, 6), share=st.floats(0.05, 0.6))
def test_no_request_is_sent_during_a_pause(limit: RateLimit | None, seed: int, places: int, share: float) -> None:
    async def scenario() -> None:
        service = Service(seed, share)
        options = {"deadline": 500.0, "max_connections": places, "rate_limit": limit, "retry": RetryPolicy(attempts=3)}
        tg = await Session(1, CANARY_KEY, transport=StubTransport(service.step()), **options).open()  # type: ignore[arg-type]
        random = Random(seed)

        async def call() -> None:
            await anyio.sleep(random.uniform(0, 20))
            # Some calls are cancelled, which must not end a pause.
            with anyio.move_on_after(random.choice([0.5, 5, 1000])):
                try:
                    await tg.add_member(1, 42)
                except CallError:
                    return

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(call)
        await tg.aclose()
        check(service.turns)

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_a_later_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    async def scenario() -> None:
        left: list[float] = []
        told = iter(["50", "1"])
        both = anyio.Event()

        async def step(_request: Request) -> Response:
            left.append(anyio.current_time() - began)
            if len(left) > 2:
                return reply()
            if len(left) == 2:
                both.set()
            await both.wait()
            return reply("", 429, retry_after=next(told))

        began = anyio.current_time()
        session = Session(1, CANARY_KEY, transport=StubTransport(step), deadline=500)
        async with session as tg, anyio.create_task_group() as group:
            group.start_soon(tg.get_plans)
            group.start_soon(tg.get_plans)
        assert left[:2] == [0, 0]
        assert all(at >= 50 for at in left[2:])

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


class Forever:
    """A shared gate that pauses forever."""

    is_open = True

    async def open(self) -> "Forever":
        return self

    async def aclose(self) -> None:
        """Do nothing."""

    async def ask(self, bot_id: int, limit: RateLimit | None) -> GateReply | None:
        del bot_id, limit
        return GateReply(pause=float("inf"))

    async def pause(self, bot_id: int, seconds: float) -> None:
        """Do nothing."""


@pytest.mark.parametrize("wait", ["9999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_one_reply_pauses_other_calls_for_an_hour_at_most(wait: str) -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 429, retry_after=wait), reply())
        async with Session(1, CANARY_KEY, transport=transport) as tg:
            with pytest.raises(RateLimited) as told:
                await tg.get_plans()
            assert (told.value.retry_after or 0) > 1e9
            with pytest.raises(RateLimited) as paused:
                await tg.get_plans()
            assert (paused.value.retry_after or 0) <= 3_600
            await trio.sleep(3_601)
            assert await tg.get_plans() == []

    trio.run(scenario, clock=MockClock(autojump_threshold=0))


def test_the_longest_pause_can_be_set() -> None:
    async def scenario() -> None:
        transport = StubTransport(reply("", 429, retry_after="500"), reply())
        async with Session(1, CANARY_KEY, transport=transport, retry=RetryPolicy(pause_cap=100)) as tg:
            with pytest.raises(RateLimited):
                await tg.get_plans()
            await trio.sleep(100)
            assert await tg.get_plans() == []
        async with Session(1, CANARY_KEY, transport=StubTransport(), gate=Forever()) as tg:
            with pytest.raises(RateLimited) as paused:
                await tg.get_plans()
            assert (paused.value.retry_after or 0) <= 3_600

    trio.run(scenario, clock=MockClock(autojump_threshold=0))
