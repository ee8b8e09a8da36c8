"""The program that a file belongs to, the components that keep tables in it, and their versions.

A file is examined before it is opened for writing, so that another program's file stays unchanged.
"""

import itertools
import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.sqlite.errors import storage_error
from tgmembership_async.storage.sqlite.files import check_kind, make_private, status

APPLICATION_ID: Final = 0x54474D41  # "TGMA"
LAYOUT: Final = 1
_STRICT_TABLES: Final = (3, 37, 0)
_OWNER_WAITS: Final = 30.0  # seconds to wait for other processes: no response is lost to a long `.dump`
_OTHERS_WAIT: Final = 5.0

_NO_DATABASE: Final = "is not a SQLite database, and was left as it is: name another file"
_NAME_A_FILE: Final = "name an ordinary file that has one name, so that it has one lock"

_PRAGMAS: Final = (
    "PRAGMA synchronous=EXTRA",
    "PRAGMA fullfsync=ON",  # macOS: an ordinary fsync there leaves the data in the drive's cache
    "PRAGMA secure_delete=ON",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",  # no tokens in temporary files
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
)
_CREATE: Final = (
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={LAYOUT}",
    """
    CREATE TABLE component (
        name TEXT PRIMARY KEY CHECK (name <> ''),
        version INTEGER NOT NULL CHECK (version > 0)
    ) STRICT, WITHOUT ROWID
    """,
)


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Raise UsageError if this Python's SQLite is too old for STRICT tables."""
    if version < _STRICT_TABLES:
        found = ".".join(map(str, version))
        msg = f"this Python has SQLite {found}, and 3.37 or later is needed: use a newer Python or system"
        raise UsageError(msg)


def check_path(path: Path, *, owner: bool, must_exist: bool) -> None:
    """Raise UsageError if opening the file cannot succeed; nothing is opened, created or changed."""
    found = status(path)
    is_new = found is None
    problem = None
    if found is not None:
        check_kind(path, found, owner=False, advice=_NAME_A_FILE)
        is_new = found.st_size == 0
        if found.st_size == 1:  # SQLite treats it as an empty database
            problem = _NO_DATABASE
    if is_new and must_exist:
        problem = (
            f"{'is missing' if found is None else 'is empty'}, but must_exist=True: check that its disk is mounted and "
            "that the folder is right. A new file has no grants, and would send all of them again"
        )
    elif is_new and not owner:
        problem = "holds nothing yet: open it once as its owner"
    elif found is not None and owner:
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            problem = (
                "or its folder may only be read by this process: give it the right to write, or use owner=False to read"
            )
        else:
            check_kind(path, found, owner=True, advice="run as that user, or change the file's owner")
    if problem is not None:
        msg = f"{path} {problem}"
        raise UsageError(msg)


def connect(path: Path, *, owner: bool) -> sqlite3.Connection:
    """Open a file of this package; the owner may create it. Raises UsageError or StorageError, changing nothing."""
    if owner:
        _create(path)
    check_path(path, owner=owner, must_exist=False)
    failure: TGMembershipError
    try:
        _look_at(path)
        connection = _open(path, "mode=rw", _OWNER_WAITS if owner else _OTHERS_WAIT)
        try:
            _prepare(connection, path, owner=owner)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            failure = UsageError(f"{path} {_NO_DATABASE}")
        else:
            failure = storage_error(path, error)
    else:
        return connection
    raise failure


def _create(path: Path) -> None:
    # SQLite would create the file with the default mode; its journal takes the mode of the file.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and not found.st_size:
            path.chmod(0o600)
    except OSError as error:
        msg = f"{path} cannot be created: {error.strerror}"
        raise UsageError(msg) from None


def _open(path: Path, how: str, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, timeout=timeout)


def _look_at(path: Path) -> None:
    """Refuse another program's file, without locking or changing it; damage is left to the actual opening."""
    # Not with open(): closing a descriptor of the file would drop the locks of this process's other connections.
    # Without locks a page may be read while its owner writes it, and look damaged.
    with suppress(sqlite3.Error), closing(_open(path, "mode=ro&immutable=1", 0.0)) as connection:
        _check_whose(connection, path)


def _prepare(connection: sqlite3.Connection, path: Path, *, owner: bool) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    _check_whose(connection, path)
    if not owner:
        return
    make_private(path)
    (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        msg = f"{path} was put into journal mode {mode!r} by another program that still has it open: end that program"
        raise UsageError(msg)
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise storage_error(path, _damage(verdict))


def check_indexes(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StorageError if a table and its unique index disagree: a ref missing from the index would pass for new.

    They disagree in a copy that was made of a file in use, and `quick_check` does not compare them.
    """
    try:
        tables = connection.execute(
            """SELECT DISTINCT name FROM pragma_table_list AS t WHERE schema = 'main' AND type = 'table' AND NOT wr
               AND EXISTS (SELECT 1 FROM pragma_index_list(t.name) WHERE "unique")"""
        ).fetchall()
        for (table,) in tables:
            (verdict,) = connection.execute(f"PRAGMA integrity_check({_quoted(table)})").fetchone()
            if verdict != "ok":
                raise _damage(verdict)
    except sqlite3.Error as error:
        failure = storage_error(path, error)
    else:
        return
    raise failure


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _damage(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(" ".join(verdict.split()))
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
    return error


def _check_whose(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID and (application or layout or _has_tables(connection)):
        msg = f"{path} is another program's SQLite database, and was left as it is: name another file"
        raise UsageError(msg)
    if layout > LAYOUT:
        raise UsageError(_newer(path))


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _newer(path: Path) -> str:
    return f"{path} was written by a newer tgmembership-async, and was left as it is: update the package"


def migrate(
    connection: sqlite3.Connection, path: Path, component: Component, *, owner: bool, must_exist: bool = False
) -> None:
    """Bring a component's tables up to its version, as the owner; without ownership, check that they are."""
    found = _version_of(connection, component)
    if found > component.version:
        raise UsageError(_newer(path))
    if found == component.version:
        return
    if must_exist and not found:
        msg = f"{path} holds no {component.name}, but must_exist=True: check that this is the right file"
        raise UsageError(msg)
    if not owner:
        what = f"an older {component.name}" if found else f"no {component.name}"
        msg = f"{path} holds {what}: open it once as its owner"
        raise UsageError(msg)
    statements = itertools.chain(() if _has_tables(connection) else _CREATE, *component.migrations[found:])
    for statement in statements:
        connection.execute(statement)
    connection.execute("INSERT OR REPLACE INTO component VALUES (?, ?)", (component.name, component.version))


def holds(connection: sqlite3.Connection, component: Component) -> bool:
    """Tell whether a file has the tables of a component."""
    return _version_of(connection, component) > 0


def _version_of(connection: sqlite3.Connection, component: Component) -> int:
    if not _has_tables(connection):
        return 0
    row = connection.execute("SELECT version FROM component WHERE name = ?", (component.name,)).fetchone()
    return 0 if row is None else int(row[0])
