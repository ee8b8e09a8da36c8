"""Check that a connection is a session of its own on the server, which a worker's lock needs, not one of a pool."""

from contextlib import closing
from typing import Final

from psycopg import errors as pg

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.postgres.server import Lane, Server

SESSION_MODE: Final = (
    "the connections to it are shared, as by PgBouncer with pool_mode = transaction, so no lock can show that a worker "
    "is alive: connect to the server itself, or set the pooler to session mode (pool_mode = session)"
)
_STATEMENTS: Final = 3
_BACKEND: Final = "SELECT pg_backend_pid()"


def prove_session(lane: Lane, server: Server) -> None:
    """Raise UsageError if statements of `lane` run on several connections of the server, or on one of another client.

    A second connection holds a transaction meanwhile: a pooler gives it the server connection that `lane` used last and
    that is idle, so that `lane` gets another one.
    """
    with closing(server.connect()) as other:
        if not _are_two_sessions(lane, other):
            raise shared(server)


def _are_two_sessions(lane: Lane, other: Lane) -> bool:
    backends = {_backend(lane)}
    try:
        with other.transaction():
            foreign = _backend(other)
            backends |= {_backend(lane) for _ in range(_STATEMENTS)}
    except pg.ProtocolViolation:  # PgBouncer with pool_mode = statement knows no transactions
        return False
    return len(backends) == 1 and foreign not in backends


def shared(server: Server) -> UsageError:
    """Return the error that refuses a pooler in transaction mode."""
    return UsageError(f"{server}: {SESSION_MODE}")


def _backend(lane: Lane) -> int:
    row = lane.execute(_BACKEND).fetchone()
    assert row is not None  # noqa: S101 - one row, always
    return int(row[0])
