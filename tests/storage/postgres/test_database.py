"""PostgreSQL as storage: clear errors at opening, no passwords in texts, and recovery from server failures."""

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from own_schema import own_schema
from private_postgres import PASSWORD, USER, PrivatePostgres, private_postgres
from psycopg import errors as pg
from stub_transport import StubTransport, reply

from tgmembership_async import Secret, Session, StorageError, TGMembershipError, UsageError
from tgmembership_async.grants import Granter, GrantRequest, GrantStatus, PostgresLedger, Settlement
from tgmembership_async.storage.postgres import database
from tgmembership_async.storage.postgres.errors import postgres_error
from tgmembership_async.storage.postgres.server import Lane, Server
from tgmembership_async.values.models import AccessToken
from tgmembership_async.webhooks import PostgresInbox

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
REQUEST = GrantRequest("a", 1, 42)
GRANTED = Settlement(GrantStatus.GRANTED, token=AccessToken(token="tok"), evidence="ok: true")


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    with private_postgres() as started:
        yield started


@pytest.fixture
def owner(server: PrivatePostgres) -> Iterator["psycopg.Connection[Any]"]:
    """Connect as the owner of a server without tables of this package, and restore that state."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


async def status(ledger: PostgresLedger, ref: str) -> GrantStatus | None:
    row = await ledger.get(ref)
    return None if row is None else row.status


async def open_and_close(url: str) -> None:
    async with PostgresLedger(url):
        pass


def problem_with(url: str) -> TGMembershipError:
    """Return the error of `open`, after checking that no part of it shows the password."""
    with pytest.raises((UsageError, StorageError)) as raised:
        anyio.run(open_and_close, url)
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert told.__cause__ is told.__context__ is None
    ours = [frame for frame in told.stack if "tgmembership_async" in frame.filename]
    assert ours
    assert not [frame for frame in ours if PASSWORD in repr(frame.locals)]
    assert PASSWORD not in str(raised.value)
    return raised.value


class TestAtTheDoor:
    def test_a_server_that_is_not_there(self, refused_port: int) -> None:
        problem = problem_with(f"postgresql://shop:{PASSWORD}@127.0.0.1:{refused_port}/shop")
        assert isinstance(problem, StorageError)
        assert str(problem).startswith(f"postgresql://shop@127.0.0.1:{refused_port}/shop: connection failed")
        assert "start the server" in str(problem)

    @pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
    def test_a_user_who_is_not_let_in(self, server: PrivatePostgres, user: str, password: str) -> None:
        problem = problem_with(server.url_of(user, password))
        assert isinstance(problem, UsageError)
        assert "the server rejects this user" in str(problem)

    def test_a_database_that_is_not_there(self, server: PrivatePostgres) -> None:
        problem = problem_with(server.url.replace("/postgres", "/elsewhere"))
        assert isinstance(problem, UsageError)
        assert '"elsewhere" does not exist' in str(problem)

    def test_a_user_who_may_not_create_tables_and_then_need_not(
        self, server: PrivatePostgres, owner: "psycopg.Connection[Any]"
    ) -> None:
        owner.execute("DROP ROLE IF EXISTS worker")
        owner.execute("CREATE ROLE worker LOGIN PASSWORD 'w0rker'")
        owner.execute("GRANT USAGE ON SCHEMA public TO worker")
        url = server.url_of("worker", "w0rker")
        problem = problem_with(url)
        assert isinstance(problem, UsageError)
        assert "ledger init" in str(problem)
        anyio.run(open_and_close, server.url)
        assert "GRANT" in str(problem_with(url))
        owner.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker")
        owner.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO worker")

        async def work() -> None:
            async with PostgresLedger(url) as ledger:
                assert (await ledger.claim(REQUEST)).mine
                await ledger.settle("a", GRANTED)

        anyio.run(work)
        owner.execute("DROP OWNED BY worker")

    def test_tables_of_a_newer_package_and_of_another_program(
        self, server: PrivatePostgres, owner: "psycopg.Connection[Any]"
    ) -> None:
        anyio.run(open_and_close, server.url)
        owner.execute("UPDATE tgm_component SET version = 99 WHERE name = 'ledger'")
        problem = problem_with(server.url)
        assert isinstance(problem, UsageError)
        assert "version 99, written by a newer tgmembership-async" in str(problem)
        owner.execute("DROP TABLE tgm_component")
        problem = problem_with(server.url)
        assert isinstance(problem, UsageError)
        assert "another program has a table of this name" in str(problem)

    @pytest.mark.usefixtures("owner")
    def test_a_server_that_may_only_be_read_is_not_wrong_use(self, server: PrivatePostgres) -> None:
        reading = f"{server.url}?options=-cdefault_transaction_read_only%3Don"
        problem = problem_with(reading)
        assert isinstance(problem, StorageError)
        assert "try again once its failover is over" in str(problem)
        anyio.run(open_and_close, server.url)
        anyio.run(open_and_close, reading)  # with its tables, and nothing to settle, it can be read

    def test_no_schema_and_an_encoding_that_has_not_every_letter(
        self, server: PrivatePostgres, owner: "psycopg.Connection[Any]"
    ) -> None:
        assert "search_path" in str(problem_with(f"{server.url}?options=-csearch_path%3Dnowhere"))
        owner.execute("DROP DATABASE IF EXISTS latin")
        owner.execute("CREATE DATABASE latin ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        assert "encoding UTF8" in str(problem_with(server.url.replace("/postgres", "/latin")))

    @pytest.mark.parametrize(
        "conninfo",
        [
            f"postgresql://shop:{PASSWORD}/more@db/shop",
            f"postgresql://shop:12/{PASSWORD}@db/shop",
            f"postgresql://shop:a@{PASSWORD}@db/shop",
            f"password=a {PASSWORD}",
            "postgresql://shop:%zz@db/shop",
            None,
            7,
        ],
    )
    def test_a_connection_string_that_cannot_be_read_is_not_quoted(self, conninfo: Any) -> None:
        with pytest.raises(UsageError, match="a connection string looks like") as raised:
            PostgresLedger(conninfo)
        assert PASSWORD not in str(raised.value)
        assert raised.value.__context__ is None

    def test_what_is_shown_of_a_connection_string(self) -> None:
        for conninfo in (f"postgresql://shop:{PASSWORD}@db:1234/shop", f"host=db password={PASSWORD} user=shop"):
            ledger, inbox = PostgresLedger(Secret(conninfo)), PostgresInbox(conninfo)
            assert repr(ledger).startswith("<PostgresLedger at postgresql://shop@db")
            assert PASSWORD not in repr(ledger) + repr(vars(ledger)) + repr(inbox) + repr(vars(ledger._storage.server))

    def test_without_psycopg_the_extra_is_named(self) -> None:
        code = (
            "import sys; sys.modules['psycopg'] = None\n"
            "import tgmembership_async as t, tgmembership_async.grants as g, tgmembership_async.webhooks as w\n"
            "for module, name in ((g, 'PostgresLedger'), (w, 'PostgresInbox'), (t, 'PostgresGate')):\n"
            "    try: getattr(module, name)\n"
            "    except t.UsageError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.count("run pip install '.[postgres]' in the clone") == 3


class TestTheTables:
    def test_any_number_may_open_it_for_the_first_time_at_once(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(open_and_close, url)
            async with PostgresLedger(url) as ledger, PostgresInbox(url):
                await ledger.plan(REQUEST)

        run(scenario)

    def test_they_are_where_the_first_ones_were_made(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            with psycopg.connect(url, autocommit=True) as connection:
                (mine,) = connection.execute("SELECT current_schema()").fetchone() or ("",)
                connection.execute(f"CREATE SCHEMA {mine}_front".encode())
                try:
                    async with PostgresLedger(url) as ledger:
                        await ledger.plan(REQUEST)
                    async with PostgresInbox(url.replace(mine, f"{mine}_front%2C{mine}")):
                        pass
                    (front,) = connection.execute(
                        "SELECT to_regclass(%s)", (f"{mine}_front.tgm_delivery",)
                    ).fetchone() or (1,)
                    assert front is None
                    assert connection.execute("SELECT count(*) FROM tgm_delivery").fetchone() == (0,)
                finally:
                    connection.execute(f"DROP SCHEMA {mine}_front CASCADE".encode())

        run(scenario)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM tgm_grants",
            "UPDATE tgm_attempt SET status = 'granted'",
            "DELETE FROM tgm_attempt",
            "UPDATE tgm_decision SET reason = ''",
            "DELETE FROM tgm_decision",
            "UPDATE tgm_grants SET plan_id = 0",
            "UPDATE tgm_grants SET status = 'sending', worker = NULL",
        ],
    )
    def test_what_is_written_once_stays(self, url: str, statement: str) -> None:
        async def fill() -> None:
            async with PostgresLedger(url) as ledger:
                await ledger.claim(REQUEST)
                await ledger.settle("a", Settlement(GrantStatus.UNKNOWN))
                await ledger.decide("a", "granted", AccessToken(token="tok"), "seen")

        anyio.run(fill)
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error):
            connection.execute(statement.encode())


class TestAServerThatGoesAway:
    @pytest.mark.usefixtures("owner")
    def test_work_goes_on_when_it_is_back(self, server: PrivatePostgres, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(server.url) as ledger:
                assert (await ledger.claim(GrantRequest("before", 1))).mine
                server.stop()
                async with anyio.create_task_group() as group:
                    group.start_soon(ledger.settle, "before", GRANTED)
                    group.start_soon(ledger.plan, GrantRequest("meanwhile", 1))
                    await anyio.sleep(0.2)
                    server.start()
                assert (await ledger.claim(GrantRequest("meanwhile", 1))).mine
                async with PostgresLedger(server.url) as other:
                    assert (await other.claim(GrantRequest("meanwhile", 1))).elsewhere, "it has come back to life"
                    assert [a.status for a in await other.attempts("before")] == [GrantStatus.GRANTED]
                    assert await other.decisions("before") == []

        run(scenario)

    def test_a_connection_that_met_an_error_is_thrown_away(self, url: str, run: Run) -> None:
        async def scenario() -> None:
            async with PostgresLedger(url) as ledger:
                assert (await ledger.claim(REQUEST)).mine
                for lane in ledger._storage._lanes:  # as if the server on the other end had been demoted
                    lane.execute("SET default_transaction_read_only = on")
                assert (await ledger.settle("a", GRANTED)).status is GrantStatus.GRANTED

        run(scenario)

    def test_a_phase_in_which_the_server_is_read_only_passes(
        self, url: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def connect_to_the_old_primary(server: Server) -> Lane:
            lane = connect(server)
            if len(tried) < 3:
                lane.execute("SET default_transaction_read_only = on")
            tried.append(server)
            return lane

        tried: list[Server] = []
        connect = Server.connect

        async def scenario() -> None:
            tried.clear()
            async with PostgresLedger(url) as ledger:
                assert (await ledger.claim(REQUEST)).mine
                ledger._storage._lanes.pop().close()
                with monkeypatch.context() as failover:
                    failover.setattr(Server, "connect", connect_to_the_old_primary)
                    assert (await ledger.settle("a", GRANTED)).status is GrantStatus.GRANTED
                assert len(tried) == 4

        run(scenario)

    @pytest.mark.parametrize("error", [pg.InsufficientPrivilege("no"), pg.InvalidSchemaName("no")])
    def test_rights_that_are_lost_while_it_is_open_are_no_wrong_use(self, error: psycopg.Error) -> None:
        server = Server("postgresql://127.0.0.1/shop")
        assert type(postgres_error(server, error)) is UsageError
        assert type(postgres_error(server, error, opened=True)) is StorageError

    @pytest.mark.usefixtures("owner")
    def test_an_intent_that_could_not_be_committed_is_not_sent(
        self, server: PrivatePostgres, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "PATIENCE", 0.3)

        async def scenario() -> None:
            transport = StubTransport(reply('{"ok": true, "code": 200, "result": "tok"}'))
            ledger = PostgresLedger(server.url)
            async with Granter(Session(1, "k" * 40, transport=transport), ledger) as granter:
                await ledger.claim(GrantRequest("b", 1))
                server.stop("immediate")
                with pytest.raises(StorageError):
                    await granter.grant("a", plan_id=1)
                assert transport.requests == []
                with pytest.raises(StorageError):
                    await ledger.settle("b", GRANTED)
                server.start()
                with anyio.fail_after(30):
                    while await status(ledger, "b") is not GrantStatus.GRANTED:  # noqa: ASYNC110 - a thread records it
                        await anyio.sleep(0.05)
                assert (await granter.grant("a", plan_id=1)).attempts == 1
                assert len(transport.requests) == 1

        run(scenario)

    def test_a_claim_whose_commit_was_not_told_is_found_again(self, url: str, run: Run) -> None:
        class CutAfterCommit(psycopg.Connection[Any]):
            cuts = 1

            def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
                cursor = super().execute(query, params, **kwargs)
                if "INSERT INTO tgm_attempt" in str(query) and type(self).cuts:
                    type(self).cuts -= 1
                    self.close()
                    message = "server closed the connection unexpectedly"
                    raise psycopg.OperationalError(message)
                return cursor

        async def scenario() -> None:
            CutAfterCommit.cuts = 1
            ledger = PostgresLedger(url)
            connect = ledger._storage.server.connect

            def connect_badly() -> Any:
                lane = connect()
                lane.__class__ = CutAfterCommit
                return lane

            ledger._storage.server.connect = connect_badly  # type: ignore[method-assign]  # the network, at its worst
            async with ledger:
                claim = await ledger.claim(REQUEST)
                assert (claim.mine, claim.grant.attempts) == (True, 1)
                assert CutAfterCommit.cuts == 0
                assert not (await ledger.claim(REQUEST)).mine
                assert (await ledger.settle("a", GRANTED)).status is GrantStatus.GRANTED

        run(scenario)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork_the_child_is_told_so_and_the_parent_goes_on(url: str) -> None:
    code = (
        "import os, sys, anyio, warnings\n"
        "from tgmembership_async import UsageError\n"
        "from tgmembership_async.grants import GrantRequest, PostgresLedger\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # of fork beside threads, which is the point\n"
        "async def main():\n"
        "    async with PostgresLedger(sys.argv[1]) as ledger:\n"
        "        await ledger.claim(GrantRequest('a', 1))\n"
        "        if os.fork() == 0:\n"
        "            try: await ledger.plan(GrantRequest('b', 1))\n"
        "            except UsageError as error: print(error, flush=True)\n"
        "            os._exit(0)\n"
        "        os.wait()\n"
        "        async with PostgresLedger(sys.argv[1]) as other:\n"
        "            print((await other.claim(GrantRequest('a', 1))).elsewhere, flush=True)\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60, check=True)
    told, alive = done.stdout.splitlines()
    assert "was opened before this process was forked" in told
    assert alive == "True"


@pytest.mark.usefixtures("owner")
def test_the_password_is_in_no_log_record(
    server: PrivatePostgres, caplog: pytest.LogCaptureFixture, refused_port: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        anyio.run(open_and_close, server.url)
        problem_with(server.url.replace(str(server.port), str(refused_port)))
    assert PASSWORD not in caplog.text
