"""A cancelled grant that may have been applied says so, and the cancellation is never swallowed."""

import asyncio
import ssl
from contextvars import ContextVar
from random import Random
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport

from tgmembership_async import (
    AiohttpTransport,
    CallEnded,
    HttpxTransport,
    Request,
    Response,
    Session,
    TGMembershipError,
)
from tgmembership_async.testing import ChaosProxy, FakeService, Trouble, serve

CROSSINGS = pytest.mark.parametrize(
    ("way", "backend"),
    [(HttpxTransport, "asyncio"), (HttpxTransport, "trio"), (AiohttpTransport, "asyncio")],
    ids=["httpx-asyncio", "httpx-trio", "aiohttp-asyncio"],
)
AT_A_TIME = 12
SLOWLY = [Trouble("latency", when=when, seconds=0.003, probability=0.3) for when in ("connect", "request", "reply")]
member: ContextVar[int] = ContextVar("member")


@pytest.fixture(params=["TCP", "TLS"])
def front(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "TLS" else None


class Patience:
    """A random timeout that adapts so that half of the calls are cancelled on any machine."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._longest = 0.02

    def draw(self) -> float:
        return self._random.uniform(0, self._longest)

    def learn(self, *, was_cut_off: bool) -> None:
        self._longest *= 1.05 if was_cut_off else 0.95


@CROSSINGS
@pytest.mark.parametrize("members", [100, pytest.param(5_000, marks=pytest.mark.soak)])
def test_a_grant_reported_as_not_applied_was_not_granted(
    members: int, way: Any, front: ssl.SSLContext | None, client_tls: ssl.SSLContext, run: Any
) -> None:
    service = FakeService(api_key=CANARY_KEY)
    untouched: set[int] = set()
    done: set[int] = set()
    ends: set[type] = set()
    patience = Patience(members)

    def note(ended: CallEnded) -> None:
        ends.add(type(ended.error))
        if not ended.maybe_applied:
            (done if ended.error is None else untouched).add(member.get())

    async def scenario() -> None:
        options: dict[str, Any] = {"proxy": None, "ssl_context": client_tls}
        way_there = {"base_url": proxy.url, "transport": way(**options), "observer": note}
        async with Session(**service.session_options(), **way_there) as tg:
            left = iter(range(1, members + 1))

            async def work() -> None:
                for one in left:
                    member.set(one)
                    with anyio.move_on_after(patience.draw()) as scope:
                        await tg.add_member(1, one)
                    patience.learn(was_cut_off=scope.cancelled_caught)

            async with anyio.create_task_group() as group:
                for _ in range(AT_A_TIME):
                    group.start_soon(work)

    with serve(service) as server, ChaosProxy(server.url, SLOWLY, tls_front=front) as proxy:
        run(scenario)
    assert not any(issubclass(end, BaseExceptionGroup) for end in ends), "a cancellation is told as what it is"
    granted = [grant.member_id for grant in service.audit]
    assert untouched, "some were cut off early"
    assert len(granted) == len(set(granted)) > 0
    assert not untouched & set(granted)
    assert done <= set(granted)


@pytest.mark.parametrize("method", ["get_plans", "add_member"])
async def test_a_cancellation_that_meets_the_deadline_is_not_swallowed(method: str) -> None:
    deadline = 0.01

    async def never(_request: Request) -> Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async def caller() -> None:
        try:
            await getattr(tg, method)(*((1, 42) if method == "add_member" else ()))
        except TGMembershipError:
            await asyncio.sleep(3600)

    async with Session(1, CANARY_KEY, transport=StubTransport(never), deadline=deadline) as tg:
        for number in range(100):
            task = asyncio.ensure_future(caller())
            asyncio.get_running_loop().call_later(deadline + (number - 50) * 0.00002, task.cancel)
            await asyncio.wait({task}, timeout=10)
            assert task.cancelled()
