"""After a burst of 256 parallel calls, a single call takes no more CPU than before."""

import sys
from types import FrameType
from typing import Any

import anyio
from canary import CANARY_KEY
from scripted_server import answering

from tgmembership_async import Session


class Steps:
    """Count Python function calls, a measure of work that does not depend on the load of the machine."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.count += event == "call"


async def cost(tg: Session) -> int:
    """Return the minimum number of function calls of several `get_plans`."""
    counts = []
    for _ in range(10):
        steps = Steps()
        sys.setprofile(steps)
        try:
            await tg.get_plans()
        finally:
            sys.setprofile(None)
        counts.append(steps.count)
    return min(counts)


def test_a_call_after_a_burst_costs_no_more(serve: Any, run: Any) -> None:
    server = serve(answering())

    async def scenario() -> None:
        async with Session(1, CANARY_KEY, base_url=server.url, proxy=None, max_connections=64) as tg:
            await tg.get_plans()
            before = await cost(tg)
            async with anyio.create_task_group() as group:
                for _ in range(256):
                    group.start_soon(tg.get_plans)
            assert server.connections <= 64
            after = await cost(tg)
            assert after <= 1.05 * before

    run(scenario)
