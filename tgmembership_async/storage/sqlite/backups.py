"""Back up a database file that is in use, with SQLite's online backup: complete, and as of one moment."""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.sqlite.errors import storage_error
from tgmembership_async.storage.sqlite.schema import connect

_WAITS: Final = 60.0  # seconds to wait for a process that keeps the file locked


def back_up(source: Path, target: Path) -> None:
    """Copy a file of this package to a new one (mode 0600) while others use it. Raises UsageError or StorageError.

    Writers wait meanwhile. A copy that fails leaves no file.
    """
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        msg = f"{target} is there already, and a backup overwrites nothing: name a new file"
        raise UsageError(msg) from None
    except OSError as error:
        msg = f"{target} cannot be created: {error.strerror}"
        raise UsageError(msg) from None
    try:
        _copy(source, target)
    except BaseException:
        for left in (target, target.with_name(f"{target.name}-journal")):
            with suppress(OSError):
                left.unlink()
        raise


def _copy(source: Path, target: Path) -> None:
    end = time.monotonic() + _WAITS

    def step(code: int, left: int, pages: int) -> None:
        del left, pages
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > end:
            msg = f"{source} is kept locked by another process: wait for that process or end it, and try again"
            raise StorageError(msg)

    with closing(connect(source, owner=False)) as from_:
        try:
            with closing(sqlite3.connect(target, isolation_level=None)) as to:
                to.execute("PRAGMA synchronous=EXTRA")
                to.execute("PRAGMA fullfsync=ON")
                from_.backup(
                    to, pages=-1, progress=step
                )  # in one step: SQLite restarts a copy in several steps whenever the owner writes
        except sqlite3.Error as error:
            failure = storage_error(target, error)
        else:
            return
    raise failure
