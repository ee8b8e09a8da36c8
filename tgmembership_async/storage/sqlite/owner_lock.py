"""The lock of the one owner process: on `<path>.lock`, released by the operating system when the process ends.

The database file itself is not locked: closing any descriptor of it would drop the locks that SQLite holds on it.

The lock file has two blocks of text: its holder, and what its last holder knew of the database file (`generations`).
It is never truncated, so the second block stays when another process takes the lock.
"""

import json
import logging
import os
import platform
import stat
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.structuring.objects import is_object
from tgmembership_async.storage.sqlite.files import check_kind, status

_BLOCK: Final = 512  # a sector: a power cut leaves the old block or the new one
_LONGEST_HOST: Final = 40
_PAUSE: Final = 0.05
_ADVICE: Final = (
    "and one process at a time may own it. With several workers or replicas use PostgreSQL, or let one process do this "
    "work; to read and decide beside the owner, open it with owner=False"
)
_ADVICE_ON_KIND: Final = "it has the name of the lock file, so move it"
_logger: Final = logging.getLogger("tgmembership_async.storage")

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        # The locked byte lies after the blocks, because other processes cannot read a locked byte.
        os.lseek(fd, 1 << 20, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """The lock of a database file, held from `take` until it is released or the process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path, *, wait: float = 0.0, given_up: Callable[[], bool] = lambda: False) -> Self:
        """Take the lock of a database file. Raises UsageError that names its holder.

        Waits up to `wait` seconds for another owner to end, or until `given_up` returns true.
        """
        beside = lock_file(path)
        fd = _open(beside)
        try:
            _take(fd, path, beside, time.monotonic() + wait, given_up)
            _write(fd, 0, _myself())
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def read_facts(self) -> Mapping[str, Any] | None:
        """Return what the last holder wrote with `write_facts`, or None."""
        return _read(self._fd, _BLOCK)

    def write_facts(self, facts: Mapping[str, Any], *, durable: bool = False) -> None:
        """Replace the facts that the next holder reads with `read_facts`. Raises OSError."""
        _write(self._fd, _BLOCK, facts)
        if durable:
            os.fsync(self._fd)

    def release(self) -> None:
        """Release the lock. The file stays: deleting it would let two processes lock two files of one name."""
        self.close()

    def close(self) -> None:
        """Close the descriptor. In a forked child this leaves the lock with the parent alone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_file(path: Path) -> Path:
    """Return the path of the lock file of a database file."""
    return path.with_name(f"{path.name}.lock")


def read_facts_of(path: Path) -> Mapping[str, Any] | None:
    """Return what the last owner of a database file wrote, without taking its lock; None if nothing is readable."""
    beside = lock_file(path)
    found = status(beside)
    if found is None:
        return None
    check_kind(beside, found, owner=False, advice=_ADVICE_ON_KIND)
    try:
        with beside.open("rb") as file:
            return _read(file.fileno(), _BLOCK)
    except OSError:
        return None


def write_facts_of(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace the facts in the lock file of a database file, if there is one, without taking the lock.

    Raises OSError or UsageError.
    """
    beside = lock_file(path)
    if status(beside) is None:
        return
    fd = _open(beside)
    try:
        _write(fd, _BLOCK, facts)
    finally:
        os.close(fd)


def _open(beside: Path) -> int:
    found = status(beside)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        check_kind(beside, found, owner=True, advice=_ADVICE_ON_KIND)
    # What was put there since is not followed, does not block, and is checked again before anything is written.
    guards = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | guards, 0o600)
    except OSError as error:
        msg = f"the lock file {beside} cannot be opened: {error.strerror}"
        raise UsageError(msg) from None
    try:
        check_kind(beside, os.fstat(fd), owner=True, advice=_ADVICE_ON_KIND)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _take(fd: int, path: Path, beside: Path, end: float, given_up: Callable[[], bool]) -> None:
    waits = False
    while True:
        try:
            return _lock(fd)
        except (BlockingIOError, PermissionError):
            msg = f"{path} is in use by {_holder(fd)}, {_ADVICE}"
        except OSError as error:
            msg = f"{beside} cannot be locked ({error.strerror}): keep the file on a local disk"
            break
        left = end - time.monotonic()
        if left <= 0 or given_up():
            break
        if not waits:
            _logger.info("%s is in use by %s; waiting for it to end, at most %.0f s", path, _holder(fd), left)
            waits = True
        time.sleep(min(_PAUSE, left))
    raise UsageError(msg)


def _write(fd: int, offset: int, facts: Mapping[str, Any]) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    os.write(fd, json.dumps(facts).encode().ljust(_BLOCK - 1) + b"\n")


def _read(fd: int, offset: int) -> Mapping[str, Any] | None:
    os.lseek(fd, offset, os.SEEK_SET)
    try:
        facts: Any = json.loads(os.read(fd, _BLOCK))
    except ValueError:
        return None
    return facts if is_object(facts) else None


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node()[:_LONGEST_HOST],
        "pid_namespace": _pid_namespace(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _pid_namespace() -> str | None:
    # Two containers may have the same process id, and even the same host name.
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _holder(fd: int) -> str:
    facts = _read(fd, 0)
    if facts is None or not isinstance(facts.get("pid"), int):
        return "another process"
    me = _myself()
    if any(facts.get(name) != me[name] for name in ("host", "pid_namespace")):
        where = "a container of this host" if facts.get("host") == me["host"] else f"host {facts.get('host')}"
        return f"process {facts['pid']} of {where} since {facts.get('since')}"
    who = "this process itself" if facts["pid"] == me["pid"] else f"process {facts['pid']}"
    return f"{who} since {facts.get('since')}"
