"""The job queue next to a ledger on PostgreSQL: procrastinate's tables in the same database."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from tgmembership_async.cli.ledger_option import Server, opened
from tgmembership_async.errors import RefConflict, StorageError, UsageError
from tgmembership_async.extras import install
from tgmembership_async.grants.model import GrantRequest

if TYPE_CHECKING:
    from procrastinate import App

_CONNECTIONS: Final = 4
_LOGGERS: Final = ("procrastinate", "psycopg.pool")


def app_at(place: Server) -> "App":
    """Return a closed procrastinate App for a server. Raises UsageError if the extra is missing."""
    try:
        from procrastinate import App, PsycopgConnector  # noqa: PLC0415 - an extra: handled below
    except ModuleNotFoundError:
        msg = f"the job queue needs procrastinate: {install('procrastinate')}"
        raise UsageError(msg) from None
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())  # the outcome of each member is printed on stdout
    return App(connector=PsycopgConnector(conninfo=place.url, min_size=1, max_size=_CONNECTIONS))


@asynccontextmanager
async def opened_queue(app: "App", place: Server) -> AsyncGenerator[None]:
    """Open the App, create missing tables, and close it at the end. Raises StorageError if the server fails."""
    from procrastinate.exceptions import ConnectorException  # noqa: PLC0415 - an extra

    from tgmembership_async.storage.postgres.errors import reason  # noqa: PLC0415 - likewise
    from tgmembership_async.storage.postgres.server import Server as Connecting  # noqa: PLC0415 - likewise

    try:
        async with app.open_async():
            await prepare(app)
            yield
    except ConnectorException as error:
        why = reason(Connecting(place.url), error.__cause__ or error)
        msg = f"the server of the queue failed: {why}; run the command again, no grant is sent twice"
        raise StorageError(msg) from None


async def prepare(app: "App") -> bool:
    """Create the tables of the queue if missing, and return whether they were; safe to run concurrently."""
    from procrastinate.exceptions import ConnectorException  # noqa: PLC0415 - an extra

    if await app.check_connection_async():
        return False
    try:
        await app.schema_manager.apply_schema_async()
    except ConnectorException:
        if not await app.check_connection_async():  # otherwise another process created them first
            raise
        return False
    return True


async def enqueue(
    place: Server, requests: Iterable[GrantRequest], conflicting: Callable[[GrantRequest, RefConflict], object]
) -> int:
    """Plan each request in the ledger and enqueue a job for it; return how many jobs are new.

    `conflicting` is called with each request whose ref waits for another plan or member.
    """
    app = app_at(place)
    from tgmembership_async.ext.procrastinate import defer_grants  # noqa: PLC0415 - an extra
    from tgmembership_async.grants.postgres.ledger import PostgresLedger  # noqa: PLC0415 - an extra

    async with opened(place) as ledger, opened_queue(app, place):
        assert isinstance(ledger, PostgresLedger)  # noqa: S101 - for the queue is on a server
        return await defer_grants(app, requests, ledger=ledger, conflicting=conflicting)
