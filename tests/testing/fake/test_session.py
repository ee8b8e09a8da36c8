"""A Session meets the same faults in the same way in process and on a real socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from attrs import evolve
from canary import CANARY_KEY

from tgmembership_async import CallError, RetryPolicy, Session
from tgmembership_async.testing import FakeService, FakeTransport, Fault, serve
from tgmembership_async.testing.fake.faults import nasty

ONE_ATTEMPT = RetryPolicy(attempts=1)


@contextmanager
def in_process(fake: FakeService) -> Iterator[dict[str, Any]]:
    yield {**fake.session_options(), "transport": FakeTransport(fake)}


@contextmanager
def on_a_socket(fake: FakeService) -> Iterator[dict[str, Any]]:
    with serve(fake) as server:
        yield server.session_options()


def granted(ways: Any, backend: str, *faults: Fault, **options: Any) -> tuple[str, int]:
    """Return how one grant ends, and how many took effect."""
    fake = FakeService(api_key=CANARY_KEY, faults=faults)

    async def grant() -> str:
        async with Session(**{**found, **options}) as tg:
            try:
                await tg.add_member(plan_id=1, member_id=42)
            except CallError as error:
                cause = getattr(error, "cause", None)
                return type(error).__name__ + (f" from {type(cause).__name__}" if cause else "")
            return "granted"

    with ways(fake) as found:
        ended = anyio.run(grant, backend=backend)
    return ended, len(fake.audit)


@pytest.mark.parametrize("fault", nasty(1.0, seconds=0.01, wait=0), ids=lambda fault: fault.label)
def test_each_fault_ends_alike_and_grants_alike(fault: Fault, backend: str) -> None:
    ended, grants = granted(in_process, backend, fault, retry=ONE_ATTEMPT)
    assert granted(on_a_socket, backend, fault, retry=ONE_ATTEMPT) == (ended, grants)
    effect = fault.kind == "latency" or fault.when == "after"
    assert grants == effect
    expected = {"latency": "granted", "throttled": "RateLimited"}.get(fault.kind, "OutcomeUnknown from ")
    assert ended.startswith(expected)


@pytest.mark.parametrize("way", [in_process, on_a_socket])
def test_after_being_turned_away_once_the_grant_is_made_once(way: Any, backend: str) -> None:
    turned_away = [Fault("throttled", status=status, retry_after=0, count=1) for status in (421, 425, 429, 503)]
    policy = RetryPolicy(attempts=5, throttled_base=0)
    assert granted(way, backend, *turned_away, retry=policy) == ("granted", 1)


@pytest.mark.parametrize("way", [in_process, on_a_socket])
def test_an_answer_that_comes_too_late_is_unknown_and_granted(way: Any, backend: str) -> None:
    slow = Fault("latency", seconds=30)
    assert granted(way, backend, slow, grant_timeout=0.3) == ("OutcomeUnknown from ReplyLost", 1)
    assert granted(way, backend, slow, deadline=0.3) == ("OutcomeUnknown from DeadlineExceeded", 1)


@pytest.mark.parametrize("way", [in_process, on_a_socket])
@pytest.mark.parametrize("body_format", ["json", "form"])
def test_the_ten_methods_work(way: Any, body_format: Any, backend: str) -> None:
    fake = FakeService(api_key=CANARY_KEY, request_ids=True)
    fake.populate(10)

    async def use() -> None:
        async with Session(**found, body_format=body_format) as tg:
            assert len(await tg.get_plans()) == 4
            token = await tg.add_member(1, 42)
            assert (token.token, token.link) == (fake.tokens[0].value, fake.tokens[0].link)
            assert len(await tg.get_subscribers()) == len(fake.subscribers)
            assert await tg.get_subscribers(1) == []
            assert int(await tg.count_orders()) == 10
            assert int(await tg.count_users()) > 0
            assert {money.currency: money.amount for money in (await tg.get_revenue()).amounts} == fake.revenue()
            assert {one.name: one.count for one in await tg.most_popular_payment_methods()} == fake.payment_methods()
            assert [row.orders for row in await tg.plans_performance()] == [row.orders for row in fake.sales()]
            webhook = await tg.set_webhook("https://shop.example/hook")
            assert fake.webhook is not None
            assert webhook.secret is not None
            assert webhook.secret.reveal() == fake.webhook.secret
            await tg.delete_webhook()
            assert fake.webhook is None
            assert (await tg.call("COUNTUSERS")).request_id == f"req_{len(fake.requests):08d}"

    with way(fake) as found:
        anyio.run(use, backend=backend)


def test_a_rule_of_one_strike_leaves_the_retry_of_a_read_alone(backend: str) -> None:
    fake = FakeService(
        api_key=CANARY_KEY, faults=[evolve(fault, count=1) for fault in nasty(1.0, seconds=0.001, wait=0)]
    )

    async def use() -> int:
        policy = RetryPolicy(attempts=20, transient_base=0, throttled_base=0)
        async with Session(**fake.session_options(), transport=FakeTransport(fake), retry=policy) as tg:
            return len(await tg.get_plans())

    assert anyio.run(use, backend=backend) == 4
    assert fake.count_requests("getPlans") == 15
