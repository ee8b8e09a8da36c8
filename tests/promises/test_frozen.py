"""Promise: a worker that was stopped and counted as dead does not send a grant that others made meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from forked import Forked
from own_schema import own_schema

from tgmembership_async.grants import GrantRequest, GrantStatus, PostgresLedger, Settlement
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.values.models import AccessToken

REQUEST = GrantRequest("a", 1, 42)
WORKER = """
import sys
import anyio
from tgmembership_async import Session
from tgmembership_async.grants import Granter, PostgresLedger, claiming

claiming._SURE_FOR = 0.2

async def between_claim_and_send(request, call_next):
    print("claimed", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    return await call_next(request)

async def main():
    session = Session.from_env(middleware=[between_claim_and_send])
    async with Granter(session, PostgresLedger(sys.argv[1])) as granter:
        grant = await granter.grant("a", plan_id=1, member_id=42)
        print(grant.status, grant.token.token, flush=True)

anyio.run(main)
"""
THEIRS = Settlement(GrantStatus.GRANTED, token=AccessToken("theirs"), evidence="ok: true")


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


async def grant_in_its_place(url: str) -> None:
    """Take over the row of the worker that counts as dead, and grant it."""
    async with PostgresLedger(url) as ledger:
        with anyio.fail_after(20):
            while (await ledger.claim(REQUEST)).grant.status is not GrantStatus.UNKNOWN:  # noqa: ASYNC110 - the server
                await anyio.sleep(0.02)
        await ledger.decide("a", "retry", None, "the customer has no link")
        assert (await ledger.claim(REQUEST)).mine
        await ledger.settle("a", THEIRS)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP")
def test_a_worker_that_was_stopped_checks_its_claim_before_it_sends(url: str) -> None:
    service = FakeService()
    with serve(service) as server:
        worker = Forked(
            [sys.executable, "-c", WORKER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.env(), "NO_PROXY": "*"},
        )
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stdout.readline() == "claimed\n"
            worker.send_signal(signal.SIGSTOP)
            with psycopg.connect(url, autocommit=True) as connection:
                # Cut its connection, as a firewall does after some idle time.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND classid = 'tgm_worker'::regclass"
                )
            anyio.run(grant_in_its_place, url)
            time.sleep(0.3)  # longer than it trusts its claim
            worker.send_signal(signal.SIGCONT)
            out, _ = worker.communicate("go on\n", timeout=60)
        finally:
            worker.kill()
    assert out == "granted theirs\n"
    assert service.count_requests("addMember") == 0
