"""Promise: killing a worker while it waits for the end of a pause makes no grant unknown."""

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from command_line import COMMAND, ENVIRONMENT
from forked import Forked
from own_schema import own_schema

from tgmembership_async.grants import GrantStatus, PostgresLedger, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

MEMBERS = 100
CONCURRENCY = 32


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "SQLite":
        yield str(tmp_path / "grants.db")
    else:
        with own_schema() as url:
            yield url


def provision(folder: Path, ledger: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    options = ["--plan-id", "1", "--concurrency", str(CONCURRENCY), "--ledger", ledger]
    return Forked(
        [*COMMAND, "provision", str(folder / "members.csv"), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**ENVIRONMENT, **environment},
    )


def states(ledger: str) -> Counter[GrantStatus]:
    async def count() -> Counter[GrantStatus]:
        opened: Any = PostgresLedger(ledger) if "://" in ledger else SqliteLedger(ledger, owner=False)
        async with opened as rows:
            return Counter([row.status async for row in rows.grants()])

    return anyio.run(count)


def lift(ledger: str) -> None:
    """End the shared pause of the workers."""
    if "://" in ledger:
        with psycopg.connect(ledger, autocommit=True) as connection:
            connection.execute("UPDATE tgm_gate SET paused_until = 'epoch'")


def wait_until_all_wait(service: FakeService, ledger: str, *, sent_before: int) -> None:
    end, before = time.monotonic() + 30, -1
    while time.monotonic() < end:
        now = service.count_requests()
        if now == before > sent_before and not states(ledger)[GrantStatus.SENDING]:
            return
        before = now
        time.sleep(0.2)
    pytest.fail("the run does not come to rest")


def test_three_kills_in_a_pause_make_nothing_unknown(tmp_path: Path, ledger: str) -> None:
    rows = "".join(f"order-{number},{number + 1}\n" for number in range(MEMBERS))
    (tmp_path / "members.csv").write_text(f"ref,member_id\n{rows}")
    service = FakeService(faults=[Fault("throttled", method="addMember", retry_after=30)])
    with serve(service) as server:
        environment = {**server.env(), "NO_PROXY": "*"}
        for _ in range(3):
            sent_before = service.count_requests()
            worker = provision(tmp_path, ledger, environment)
            try:
                wait_until_all_wait(service, ledger, sent_before=sent_before)
                assert worker.poll() is None
            finally:
                worker.kill()
                worker.wait()
            assert set(states(ledger)) == {GrantStatus.PLANNED}
            lift(ledger)
        assert service.audit == []
        service.clear_faults()
        worker = provision(tmp_path, ledger, environment)
        assert worker.wait(60) == 0
    assert states(ledger) == {GrantStatus.GRANTED: MEMBERS}
    assert sorted(grant.member_id or 0 for grant in service.audit) == [*range(1, MEMBERS + 1)]
