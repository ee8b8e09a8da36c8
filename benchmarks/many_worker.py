"""One worker process of `benchmarks/many.py`: it starts, prints "ready", waits for a line, works, and prints "done"."""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

from procrastinate import App, PsycopgConnector
from provision import KEY

from tgmembership_async import Session
from tgmembership_async.ext.procrastinate import QUEUE, defer_grants, setup
from tgmembership_async.grants import Granter, GrantRequest, PostgresLedger

CONCURRENCY = 16
NOTHING = "nothing"


def requests(members: int, prefix: str) -> Iterator[GrantRequest]:
    """Yield `members` requests."""
    return (GrantRequest(f"{prefix}:{number}", 1, number + 1) for number in range(members))


def app_of(database: str) -> App:
    """Return procrastinate's App, with a task that does nothing."""
    app = App(connector=PsycopgConnector(conninfo=database, min_size=1, max_size=4))

    async def nothing(**_: Any) -> None:
        return

    app.task(name=NOTHING, queue=NOTHING)(nothing)
    return app


async def enqueue(database: str, kind: str, members: int) -> None:
    """Enqueue grants, or the same number of jobs that do nothing."""
    async with app_of(database).open_async() as app:
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        if kind == "as jobs":
            await defer_grants(app, requests(members, f"job:{time.time_ns()}"))
        else:
            some: list[dict[str, Any]] = [{"ref": f"job:{number}", "plan_id": 1} for number in range(members)]
            await app.configure_task(NOTHING, queue=NOTHING).batch_defer_async(*some)


async def work(kind: str, database: str, service: str, members: int) -> None:
    """Grant access to `members` members, or process jobs until the queue is empty."""
    session = Session(1, KEY, base_url=service, max_connections=CONCURRENCY, proxy=None)
    app = app_of(database)
    async with app.open_async(), Granter(session, PostgresLedger(database)) as granter:
        setup(app, granter)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if kind == "provision":
            share = requests(members, f"share:{time.time_ns()}")
            assert (await granter.provision(share, concurrency=CONCURRENCY)).granted == members
        else:
            queue = QUEUE if kind == "as jobs" else NOTHING
            await app.run_worker_async(queues=[queue], concurrency=CONCURRENCY, wait=False)
        print("done", flush=True)
