"""A signal that ends a command ends it at once and in order, also where Ctrl-C is ignored."""

import os
import signal
import subprocess
import time
from pathlib import Path

import anyio
import pytest
from command_line import COMMAND, ENVIRONMENT

from tgmembership_async.grants import Grant, SqliteLedger
from tgmembership_async.testing import FakeService, Fault, serve

WITHOUT_CTRL_C = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND]
"""The command as a background job of a script: its SIGINT is ignored."""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def test_a_background_job_of_a_script_ends_at_the_first_sigterm() -> None:
    with subprocess.Popen(
        [*WITHOUT_CTRL_C, "fake"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert err.endswith("0 requests, 0 grants.\n")


def test_a_grant_of_a_background_job_is_recorded_before_its_end(tmp_path: Path) -> None:
    service, ledger = FakeService(faults=[Fault("latency", when="after", method="addMember", seconds=1)]), "grants.db"
    with (
        serve(service) as server,
        subprocess.Popen(
            [*WITHOUT_CTRL_C, "grant", "r", "--plan-id", "1", "--member-id", "1", "--ledger", ledger],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **server.env(), "NO_PROXY": "*"},
            cwd=tmp_path,
        ) as process,
    ):
        end = time.monotonic() + 60
        while not service.audit and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Interrupted.\n")

    async def rows() -> list[Grant]:
        async with SqliteLedger(tmp_path / ledger) as opened:
            return [grant async for grant in opened.grants()]

    [row] = anyio.run(rows)
    assert row.status == "granted"
