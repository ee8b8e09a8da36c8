"""The retry budget empties under a failing service and recovers; a dead service costs at most 1.1 requests per call."""

from typing import Any

import anyio
import pytest
from canary import CANARY_KEY
from stub_transport import StubTransport, lost, not_sent, reply

from tgmembership_async import CallError, RetryPolicy, Session

CALLS = 500
QUICK = RetryPolicy(transient_base=0, throttled_base=0)


@pytest.mark.parametrize("step", [not_sent(), lost(), reply("", 500), reply("<html>", 502)])
def test_a_dead_service_costs_little_more_than_one_request_a_call(step: Any, run: Any) -> None:
    async def scenario() -> None:
        transport = StubTransport(step)
        async with Session(1, CANARY_KEY, transport=transport, retry=QUICK) as tg:

            async def call() -> None:
                for _ in range(CALLS // 10):
                    with pytest.raises(CallError):
                        await tg.get_plans()

            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(call)
            assert len(transport.requests) <= 1.1 * CALLS
            assert tg.retry_tokens < 14
            transport.steps = [reply()]
            for _ in range(500):
                await tg.get_plans()
            assert tg.retry_tokens == 500
            transport.requests.clear()
            transport.steps = [step]
            with pytest.raises(CallError):
                await tg.get_plans()
            assert len(transport.requests) == 4, "it retries again"

    run(scenario)


def test_a_call_that_succeeds_in_the_end_costs_nothing(run: Any) -> None:
    async def scenario() -> None:
        transport = StubTransport(not_sent())
        async with Session(1, CANARY_KEY, transport=transport, retry=QUICK) as tg:
            for _ in range(200):
                transport.steps = [not_sent(), reply("", 429), lost(), reply()]
                await tg.get_plans()
            assert tg.retry_tokens == 500

    run(scenario)
