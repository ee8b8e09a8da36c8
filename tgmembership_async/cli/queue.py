"""The job queue beside a ledger on PostgreSQL: procrastinate's tables in the same database, made if need be."""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from tgmembership_async.cli.ledger_option import Server, opened
from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.grants.model import GrantRequest

if TYPE_CHECKING:
    from procrastinate import App

_CONNECTIONS: Final = 4
_LOGGERS: Final = ("procrastinate", "psycopg.pool")


def app_at(place: Server) -> "App":
    """Return procrastinate's App for a server, not open. Raises UsageError where the extra is missing."""
    try:
        from procrastinate import App, PsycopgConnector  # noqa: PLC0415 - an extra, and told of below
    except ModuleNotFoundError:
        msg = "the job queue needs procrastinate: pip install 'tgmembership-async[procrastinate]'"
        raise UsageError(msg) from None
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())  # what became of each member is told on stdout
    return App(connector=PsycopgConnector(conninfo=place.url, min_size=1, max_size=_CONNECTIONS))


@asynccontextmanager
async def opened_queue(app: "App") -> AsyncGenerator[None]:
    """Open the App, make its tables if need be, and close it. Raises StorageError where the server is lost."""
    from procrastinate.exceptions import ConnectorException  # noqa: PLC0415 - an extra

    try:
        async with app.open_async():
            await prepare(app)
            yield
    except ConnectorException as error:
        reason = str(error.__cause__ or error).strip()
        msg = f"the queue's server failed: {reason}; run it again, nothing is done twice"
        raise StorageError(msg) from None


async def prepare(app: "App") -> bool:
    """Make the tables of the queue, and tell whether they were missing; others may do the same at the same time."""
    from procrastinate.exceptions import ConnectorException  # noqa: PLC0415 - an extra

    if await app.check_connection_async():
        return False
    try:
        await app.schema_manager.apply_schema_async()
    except ConnectorException:
        if not await app.check_connection_async():  # if they are there now, somebody was quicker
            raise
        return False
    return True


async def enqueue(place: Server, requests: Iterable[GrantRequest]) -> int:
    """Enqueue a job for each request, and return how many are new. The ledger's tables are made too."""
    app = app_at(place)
    from tgmembership_async.ext.procrastinate import defer_grants  # noqa: PLC0415 - an extra

    async with opened(place), opened_queue(app):
        return await defer_grants(app, requests)
