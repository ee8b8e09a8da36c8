"""Connections that a pooler shares out by transaction prove no worker's liveness, and are refused."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from own_schema import own_schema
from psycopg import errors as pg
from transaction_pooler import PooledServer

from tgmembership_async import StorageError, UsageError
from tgmembership_async.grants import GrantRequest, PostgresLedger
from tgmembership_async.storage.postgres import liveness
from tgmembership_async.storage.postgres.errors import postgres_error
from tgmembership_async.storage.postgres.liveness import Liveness
from tgmembership_async.storage.postgres.server import Server
from tgmembership_async.storage.postgres.sessions import prove_session
from tgmembership_async.webhooks import PostgresInbox

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Pool = Callable[..., PooledServer]


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


@pytest.fixture
def pool(url: str) -> Iterator[Pool]:
    """Give poolers in transaction mode before the server."""
    made: list[PooledServer] = []

    def make(**options: Any) -> PooledServer:
        made.append(PooledServer(url, **options))
        return made[-1]

    yield make
    for server in made:
        server.end()


@pytest.mark.parametrize("kind", [PostgresLedger, PostgresInbox])
@pytest.mark.parametrize("rotates", [False, True])
def test_opening_refuses_a_pooler_in_transaction_mode(
    url: str, run: Run, pool: Pool, kind: Any, *, rotates: bool
) -> None:
    async def scenario() -> None:
        storage = kind(url)
        storage._storage.server = pool(rotates=rotates)
        with pytest.raises(UsageError, match="session mode"):
            await storage.open()
        assert not storage.is_open

    run(scenario)


def test_a_connection_of_its_own_passes(url: str) -> None:
    server = Server(url)
    lane = server.connect()
    prove_session(lane, server)
    lane.close()


def test_a_pooler_that_knows_no_transactions_is_refused(url: str) -> None:
    class Statements:
        def execute(self, *arguments: Any) -> Any:
            return lane.execute(*arguments)

        def transaction(self) -> Any:
            raise pg.ProtocolViolation

        def close(self) -> None:
            pass

    server = Server(url)
    lane = server.connect()
    server.connect = Statements  # type: ignore[method-assign,assignment]
    with pytest.raises(UsageError, match="session mode"):
        prove_session(lane, server)
    lane.close()


def test_a_worker_whose_lock_another_backend_holds_is_refused_before_it_sends(url: str, run: Run, pool: Pool) -> None:
    async def scenario() -> None:
        async with PostgresLedger(url):
            pass  # the tables are there

    run(scenario)
    liveness = Liveness(pool(rotates=True), lambda _: None)
    for _ in range(2):
        with pytest.raises(UsageError, match="session mode"):
            liveness.secure()
    liveness.end()


def test_each_beat_proves_the_lock_again(url: str, run: Run, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one client the pooler gives it the same connection each time, until others come."""
    monkeypatch.setattr(liveness, "_BEAT", 0.01)

    async def scenario() -> None:
        async with PostgresLedger(url) as ledger:
            shared = pool(size=2)  # a beat is three statements
            liveness = ledger._storage._liveness = Liveness(shared, lambda _: None)
            assert (await ledger.claim(GrantRequest("a", 1, 42))).mine
            shared.rotates = True
            liveness._thread.join(10) if liveness._thread else None
            with pytest.raises(UsageError, match="session mode"):
                await ledger.claim(GrantRequest("b", 1, 42))
            assert ledger.interruptions == 1

    run(scenario)


@pytest.mark.parametrize("kind", [pg.InvalidSqlStatementName, pg.DuplicatePreparedStatement])
def test_a_prepared_statement_that_is_not_there_names_the_pooler(url: str, kind: Any) -> None:
    error = postgres_error(Server(url), kind('prepared statement "_pg3_0" does not exist'), opened=True)
    assert isinstance(error, StorageError)
    assert "session mode" in str(error)
