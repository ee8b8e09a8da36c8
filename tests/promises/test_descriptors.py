"""Promise: a process that runs out of file descriptors loses no reply."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
from command_line import ENVIRONMENT

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

RUN = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
sys.argv[0] = "tgmembership"
runpy.run_module("tgmembership_async.cli", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_answers_that_come_when_no_descriptor_is_left_are_stored(tmp_path: Path) -> None:
    rows = "".join(f"order-{number},{number + 1}\n" for number in range(100))
    (tmp_path / "members.csv").write_text(f"ref,member_id\n{rows}")
    ledger = tmp_path / "grants.db"
    service = FakeService(faults=[Fault("latency", method="addMember", seconds=0.2)])
    options = ["--plan-id", "1", "--concurrency", "64", "--ledger", str(ledger)]
    with serve(service) as server:
        for descriptors in (40, 200):
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(descriptors), "provision", str(tmp_path / "members.csv"), *options],
                env={**ENVIRONMENT, **server.env(), "NO_PROXY": "*"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=60,
                check=descriptors > 40,
            )
            assert (b"raise the limit (ulimit -n 96)" in done.stderr) is (descriptors == 40)
            assert set(states(ledger)) <= {GrantStatus.GRANTED, GrantStatus.PLANNED}
            assert states(ledger)[GrantStatus.GRANTED] == len(service.audit) > 0
    assert Counter(grant.member_id for grant in service.audit) == Counter(range(1, 101))


def states(path: Path) -> Counter[GrantStatus]:
    async def count() -> Counter[GrantStatus]:
        async with SqliteLedger(path, owner=False) as ledger:
            return Counter([row.status async for row in ledger.grants()])

    return anyio.run(count)
