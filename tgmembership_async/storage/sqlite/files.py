"""Check that a path is an ordinary file with a single name that belongs to the user of this process."""

import logging
import os
import stat
from pathlib import Path
from typing import Final

from tgmembership_async.errors import UsageError

_FOR_OTHERS: Final = 0o007
_PRIVATE: Final = 0o600
_KINDS: Final = (
    (stat.S_ISREG, ""),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_logger: Final = logging.getLogger("tgmembership_async.storage")


def status(path: Path) -> os.stat_result | None:
    """Return the status of the file itself, without following links, or None if there is none. Raises UsageError."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"{path} cannot be examined: {error.strerror}"
    raise UsageError(msg)


def check_kind(path: Path, found: os.stat_result, *, owner: bool, advice: str) -> None:
    """Raise UsageError for anything but an ordinary file with one name; for the owner also for another user's file."""
    kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "a device")
    if kind:
        msg = f"{path} is {kind}, and was left as it is: {advice}"
    elif found.st_nlink > 1:  # each name would have a lock of its own
        msg = f"{path} has {found.st_nlink} names (hard links), and was left as it is: {advice}"
    elif owner and not _is_ours(found):
        msg = f"{path} belongs to user {found.st_uid}, not to the user of this process, and was left as it is: {advice}"
    else:
        return
    raise UsageError(msg)


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def make_private(path: Path) -> None:
    """Set mode 0600 on a file that everybody may use; a mode without rights for others stays unchanged."""
    mode = stat.S_IMODE(path.lstat().st_mode)
    if os.name == "posix" and mode & _FOR_OTHERS:
        path.chmod(_PRIVATE)
        _logger.warning("%s holds secrets and had the mode %04o; it is %04o now", path, mode, _PRIVATE)
