"""One owner process: a lock on `<path>.lock`, which the death of the process releases.

Never on the database file itself: closing any descriptor of that one drops the locks that SQLite holds on it.
"""

import os
import sys
from pathlib import Path
from typing import Final, Self

from tgmembership_async.errors import UsageError

_PID_DIGITS: Final = 20
_ADVICE: Final = (
    "One process at a time may own it. With `uvicorn --workers N`, or several replicas, let one process own it and do "
    "this work, or use a store for many processes; to read and decide beside it, open it with owner=False"
)

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        # The locked byte lies behind the pid, for what is locked nobody else can read.
        os.lseek(fd, 1 << 20, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """Held from `take` on, until it is released or the process is gone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Self:
        """Take the lock of a database file, or raise UsageError that names who has it."""
        beside = path.with_name(f"{path.name}.lock")
        try:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            msg = f"{beside}, which tells others that the file is in use, cannot be opened: {error.strerror}"
            raise UsageError(msg) from None
        try:
            _lock(fd)
        except (BlockingIOError, PermissionError):
            msg = f"{path} is in use by {_holder(fd)}. {_ADVICE}"
        except OSError as error:
            msg = f"{beside} cannot be locked ({error.strerror}): keep the file on a local disk"
        else:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, f"{os.getpid()}\n".encode())
            return cls(fd)
        os.close(fd)
        raise UsageError(msg)

    def release(self) -> None:
        """Give the lock back. The file stays: deleting it would let two processes lock two files of one name."""
        self.forget()

    def forget(self) -> None:
        """Close the descriptor. In a forked child that leaves the lock with the parent, and with it alone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _holder(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    pid = os.read(fd, _PID_DIGITS).decode(errors="replace").strip()
    if not pid.isdigit():
        return "another process"
    return "this process itself" if int(pid) == os.getpid() else f"process {pid}"
