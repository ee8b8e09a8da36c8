"""Promise: workers on one PostgreSQL, killed repeatedly, grant each member once, and lose none."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from crash_many import crash_many
from gateways.pgbouncer import Pgbouncer
from private_postgres import PASSWORD, USER, PrivatePostgres, private_postgres


@pytest.fixture
def postgres() -> Iterator[PrivatePostgres]:
    with private_postgres() as server:
        yield server


def test_three_kills_and_a_restart_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, postgres: PrivatePostgres
) -> None:
    crash_many(tmp_path, postgres, members=200, kills=3, restart_at=0, seed=1).check()


@pytest.mark.crash_postgres
def test_kills_among_other_troubles_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, postgres: PrivatePostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    found = crash_many(tmp_path, postgres, members=10_000, kills=60, restart_at=24, seed=2, troubled=True)
    found.publish("crash_postgres", "four workers; sessions ended, read-only phases, SIGSTOP", capsys)
    found.check()


@pytest.mark.crash_postgres
def test_the_same_kills_behind_a_pooler_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, postgres: PrivatePostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with TemporaryDirectory(prefix="pooler-") as name:
        Path(name).chmod(0o755)  # the pooler runs as another user
        with Pgbouncer(Path(name), postgres.port, USER, PASSWORD, mode="session") as pooler:
            url = f"postgresql://{USER}:{PASSWORD}@{pooler.host}:{pooler.port}/postgres"
            found = crash_many(
                tmp_path, postgres, members=6_000, kills=40, restart_at=20, seed=3, troubled=True, via=url
            )
    found.publish("crash_postgres", "the same through pgbouncer in session mode", capsys)
    found.check()
