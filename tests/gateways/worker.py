"""The process that is killed: it provisions members through a gateway, and exits with 1 while some are still planned.

`python worker.py '{"base_url": ..., "ledger": ..., "progress": ..., "members": 1000, "way": "httpx", ...}'`
"""

import json
import os
import ssl
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
from attrs import evolve

from tgmembership_async import AiohttpTransport, HttpxTransport, Request, Response, RetryPolicy, Session
from tgmembership_async.grants import Granter, GrantRequest, PostgresLedger, SqliteLedger
from tgmembership_async.middleware import Next

CONCURRENCY = 8
WAYS = ("httpx", "trio", "aiohttp")


async def marked(request: Request, call_next: Next) -> Response:
    """Give each exchange a mark of its own: what arrives twice with one mark was repeated by a gateway."""
    return await call_next(evolve(request, headers=request.headers.with_("x-mark", uuid4().hex)))


def session(base_url: str, way: str, proxy: str | None, authority: str | None, options: dict[str, Any]) -> Session:
    trusted = None if authority is None else ssl.create_default_context(cafile=authority)
    kind = AiohttpTransport if way == "aiohttp" else HttpxTransport
    patient = RetryPolicy(attempts=12, transient_base=0.02, throttled_base=0.05, budget=10_000)
    given = {"max_connections": CONCURRENCY, "grant_timeout": 5.0, "retry": patient, **options}
    return Session(
        8047883872,
        "independent0key",
        base_url=base_url,
        transport=kind(proxy=proxy, ssl_context=trusted),
        attempt_middleware=[marked],
        **given,
    )


def requests(members: int) -> Iterator[GrantRequest]:
    return (GrantRequest(f"order-{member}", plan_id=1, member_id=member) for member in range(1, members + 1))


async def provision(tg: Session, ledger: str, progress: str, members: int) -> int:
    """Grant all that are not granted yet; a line of the progress file is a row that came to its end now."""
    kept = PostgresLedger(ledger) if ledger.startswith("postgresql:") else SqliteLedger(ledger)
    began = datetime.now(UTC)
    out = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with (
        Granter(tg, kept) as granter,
        granter.provision(requests(members), concurrency=CONCURRENCY, stop_on=()) as run,
    ):
        async for grant in run:
            if grant.updated_at >= began:
                os.write(out, f"{grant.ref} {grant.status}\n".encode())
    return run.summary.planned


def main(way: str, ledger: str, progress: str, members: int, **settings: Any) -> int:
    """Return 1 where some are still planned, and else 0."""
    backend = "trio" if way == "trio" else "asyncio"
    planned = anyio.run(provision, session(way=way, **settings), ledger, progress, members, backend=backend)
    return int(planned > 0)


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
