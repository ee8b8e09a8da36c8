"""Promise: workers on one PostgreSQL, killed repeatedly, grant each member once, and lose none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_many import crash_many
from crash_run import CONCURRENCY, Aftermath, told
from private_postgres import PrivatePostgres, private_postgres


@pytest.fixture
def postgres() -> Iterator[PrivatePostgres]:
    with private_postgres() as server:
        yield server


def check(found: Aftermath) -> None:
    assert found.granted_twice == []
    assert found.lost == []
    assert found.granted_in_vain == []
    assert found.unknown <= found.kills * CONCURRENCY + found.replies_destroyed
    # Each token that is missing in the ledger belongs to a row with the status unknown.
    granted = sum(grant.status == "granted" for grant in found.grants.values())
    assert granted <= len(found.audit) <= granted + found.unknown
    assert found.exit_code in (0, 4)


def test_three_kills_and_a_restart_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, postgres: PrivatePostgres
) -> None:
    check(crash_many(tmp_path, postgres, members=200, kills=3, restart_at=0, seed=1))


@pytest.mark.crash_postgres
def test_forty_kills_and_a_restart_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, postgres: PrivatePostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    found = crash_many(tmp_path, postgres, members=10_000, kills=48, restart_at=24, seed=2, troubled=True)
    with capsys.disabled():
        print(told(found))  # noqa: T201 - what the long run is for
    check(found)
