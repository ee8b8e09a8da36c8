"""PostgreSQL errors as errors of this package: what each means for the caller, and which are worth a retry."""

import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import errors as pg

from tgmembership_async.errors import StorageError, TGMembershipError, UsageError
from tgmembership_async.storage.postgres.server import Server
from tgmembership_async.storage.postgres.sessions import SESSION_MODE

_KEPT: Final = "nothing of this was kept, and what was kept before is intact"
_MEANS: Final[Mapping[type[psycopg.Error], str]] = {
    pg.InsufficientPrivilege: "this user lacks a right: let the owner of the tables GRANT it, or let a user who may "
    "create tables run `tgmembership ledger init` once",
    pg.InvalidSchemaName: "no schema of the search_path exists, or this user may not use it: create it, GRANT that, or "
    "name another one in the connection string (?options=-csearch_path%3Dshop)",
    pg.ReadOnlySqlTransaction: "the server may only be read: try again once its failover is over. If this lasts, "
    "connect to the primary server, as a user who may write",
    pg.DuplicateTable: "another program has a table of this name: use a schema of your own "
    "(?options=-csearch_path%3Dshop)",
    pg.UndefinedTable: "its tables are not here: check that database and search_path are those it was opened with",
    pg.LockNotAvailable: f"another transaction keeps this locked: end or shorten that one; {_KEPT}",
    pg.QueryCanceled: f"another transaction keeps this locked, or statement_timeout is too short; {_KEPT}",
    pg.InvalidSqlStatementName: SESSION_MODE,
    pg.DuplicatePreparedStatement: SESSION_MODE,
    pg.DiskFull: f"the server's disk is full: make room, and try again; {_KEPT}",
}
_WRONG_USE: Final = (pg.InsufficientPrivilege, pg.InvalidSchemaName, pg.DuplicateTable)
_REFUSED: Final = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")
_NOT_LET_IN: Final = "the server rejects this user: check user, password and database in the connection string"
_NOT_THERE: Final = f"start the server, or correct host and port in the connection string; {_KEPT}"
_OF_THE_SERVER: Final = re.compile(r"FATAL:\s+(.+)")
_OF_LIBPQ: Final = (
    "Connection refused",
    "Connection reset by peer",
    "Connection timed out",
    "connection timeout expired",
    "timeout expired",
    "Network is unreachable",
    "No route to host",
    "No such file or directory",
    "could not translate host name",
    "failed to resolve host",
    "certificate verify failed",
    "server does not support SSL",
    "no password supplied",
    "server closed the connection unexpectedly",
    "the connection is closed",
    "the connection is lost",
    "another connection holds the lock of this worker",
    "this worker could not register itself in time",
)
WAITED: Final = ("57014", "55P03")
"""SQLSTATEs of a statement that waited for a lock until statement_timeout or lock_timeout ended it."""
_TRANSIENT: Final = ("08", "40", "53300", "57P", *WAITED)
"""The first characters of SQLSTATEs: connection lost, transaction given up, too many connections, server stopping."""


_TRANSIENT_ONCE_OPEN: Final = ("25006",)
"""More SQLSTATEs that are transient for a server that was writable before: it is read-only during a failover."""


def is_transient(error: psycopg.Error, *, opened: bool = False) -> bool:
    """Tell whether the operation may succeed on another connection a moment later. Only connecting has no SQLSTATE.

    `opened`: it has succeeded before, when the tables were opened.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_TRANSIENT) or (opened and error.sqlstate.startswith(_TRANSIENT_ONCE_OPEN))


def _known(error: psycopg.Error) -> str:
    """Return the known phrases of a libpq message: the whole message may quote a part of a password."""
    text = str(error)
    words = _OF_THE_SERVER.findall(text) or [phrase for phrase in _OF_LIBPQ if phrase in text]
    failed = "connection failed: " if text.startswith("connection failed") else ""
    return f"{failed}{'; '.join(dict.fromkeys(words)) or type(error).__name__}"


def reason(server: Server, error: BaseException) -> str:
    """Return what the server or libpq reported, on one line and without a part of a password."""
    return server.scrub(
        (error.diag.message_primary or _known(error)) if isinstance(error, psycopg.Error) else str(error)
    )


def postgres_error(server: Server, error: psycopg.Error, *, opened: bool = False) -> TGMembershipError:
    """Return the error to raise: which server, what it reported, what that means, and what to do next.

    A wrong connection string or a missing right is a UsageError at opening. Later it is a StorageError: it was right
    before, and may be so again.
    """
    wrong_use: type[TGMembershipError] = StorageError if opened else UsageError
    report = reason(server, error)
    kind = next((kind for kind in _MEANS if isinstance(error, kind)), None)
    if kind is not None:
        return (wrong_use if issubclass(kind, _WRONG_USE) else StorageError)(f"{server}: {report}: {_MEANS[kind]}")
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        refused = any(phrase in report for phrase in _REFUSED)
        return (wrong_use if refused else StorageError)(f"{server}: {report}: {_NOT_LET_IN if refused else _NOT_THERE}")
    return StorageError(f"{server}: {report} ({error.sqlstate or type(error).__name__}): {_KEPT}")
