"""A process that creates payment requests, to be killed: python paying_shop.py BACKEND LEDGER ORDERS.

ORDERS is the number of orders, `order-0` and so on, each of a user of its own. LEDGER is a file, or the URL of a
PostgreSQL. Its exit code is 1 if something is left to send.
"""

import sys
from random import Random

import anyio

from tgmembership_async import RetryPolicy
from tgmembership_async.grants import Granter, GrantRequest, GrantStatus, PostgresLedger, SqliteLedger
from tgmembership_async.project import Project
from tgmembership_async.testing.fake.v2.values import SAMPLE_PROJECT_PLANS

FIRST_USER = 1_000_000
QUICK = RetryPolicy(attempts=8, transient_base=0.001, throttled_base=0.001)


def requests(orders: int) -> list[GrantRequest]:
    """Return the requests of all orders."""
    plan = SAMPLE_PROJECT_PLANS[0].plan_id
    return [GrantRequest(f"order-{number}", plan, FIRST_USER + number) for number in range(orders)]


async def sell(ledger: str, orders: int) -> int:
    """Create what is not created yet, each order twice and in any order, as customers press the button."""
    pressed = requests(orders) * 2
    Random().shuffle(pressed)
    rows = PostgresLedger(ledger) if "://" in ledger else SqliteLedger(ledger)
    async with Granter(Project.from_env(retry=QUICK), rows) as granter:
        async with granter.provision(pressed, concurrency=8) as run:
            async for _ in run:
                pass
        left = [grant.ref async for grant in granter.grants(GrantStatus.PLANNED)]
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(anyio.run(sell, sys.argv[2], int(sys.argv[3]), backend=sys.argv[1]))
