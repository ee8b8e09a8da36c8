"""SQLite errors as StorageError: one table of what each means for the caller."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tgmembership_async.errors import StorageError

_INTACT: Final = "nothing of this was kept, and what was kept before is intact"
_DAMAGED: Final = (
    "it is damaged: copy it, and see what `sqlite3 FILE .recover` saves. A backup lacks the grants made since, "
    "and would send them again: read 'Back up and restore' in the docs before you use one"
)
_MEANS: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: f"another process keeps it locked: wait for that process or end it, and try again; {_INTACT}",
    sqlite3.SQLITE_CANTOPEN: f"it, or the journal beside it, cannot be opened: check its folder's rights; {_INTACT}",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: f"the disk is full: make room, and try again; {_INTACT}",
    sqlite3.SQLITE_IOERR: f"the disk failed or is full: check it, and try again; {_INTACT}",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database, and was left as it is: name another file",
    sqlite3.SQLITE_READONLY: f"this process may only read it: check its permissions and its file system; {_INTACT}",
}
_MOVED: Final = "it was moved, replaced or deleted while in use: put it back, and start again; nothing of this was kept"


def storage_error(path: Path, error: BaseException) -> StorageError:
    """Return the error to raise: which file, what SQLite reported, what that means, and what to do next."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    code = getattr(error, "sqlite_errorcode", 0)
    means = _MOVED if code == sqlite3.SQLITE_READONLY_DBMOVED else _MEANS.get(code & 0xFF, _INTACT)
    return StorageError(f"{path}: {error} ({name}): {means}")
