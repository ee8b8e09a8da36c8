"""PgBouncer between workers and PostgreSQL: session mode works, transaction mode is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from gateways.pgbouncer import Pgbouncer
from gateways.scenario import Scenario
from gateways.service import Service
from private_postgres import PASSWORD, USER, PrivatePostgres, private_postgres

from tgmembership_async import UsageError
from tgmembership_async.grants import PostgresLedger

pytestmark = pytest.mark.gateways

Pooled = Callable[[str], Pgbouncer]


@pytest.fixture
def postgres() -> Iterator[PrivatePostgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture
def pooled(folder: Path, postgres: PrivatePostgres) -> Pooled:
    return lambda mode: Pgbouncer(folder, postgres.port, USER, PASSWORD, mode=mode)


def conninfo(pool: Pgbouncer) -> str:
    return f"postgresql://{USER}:{PASSWORD}@{pool.host}:{pool.port}/postgres"


def test_session_mode(folder: Path, pooled: Pooled) -> None:
    with Service(folder) as service, pooled("session") as pool:
        settings: dict[str, Any] = {"way": "httpx", "proxy": None, "authority": None, "options": {}}
        scenario = Scenario("pgbouncer, session mode, reloaded", settings)
        found = scenario.run(folder, service, service.url, conninfo(pool), pool.reload)
    found.record()
    assert found.twice == 0
    assert found.lost == 0
    assert found.in_vain == 0
    assert found.unarrived == 0


def test_transaction_mode_is_refused(pooled: Pooled) -> None:
    async def opened(url: str) -> None:
        async with PostgresLedger(url):
            pass

    with pooled("transaction") as pool, pytest.raises(UsageError, match="session"):
        anyio.run(opened, conninfo(pool))
