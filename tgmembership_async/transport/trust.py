"""Create the default TLS context, and check the environment variables that affect it."""

import os
import ssl
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from tgmembership_async.errors import UsageError


def trusted(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return `make()`; raise UsageError if an environment variable for TLS is not usable."""
    check_environment()
    return make()


def check_environment() -> None:
    """Raise UsageError if an environment variable for TLS names an unusable file or folder."""
    for variable, check in _CHECKS.items():
        path = os.environ.get(variable)
        if path:
            _check(variable, path, check)


def _check(variable: str, path: str, check: Callable[[str], object]) -> None:
    try:
        check(path)
    except OSError as error:  # includes SSLError
        why = error.strerror or type(error).__name__
    else:
        return
    msg = f"the environment variable {variable} names {path!r}, which cannot be used for TLS: {why}"
    raise UsageError(msg)


def _check_file(path: str) -> None:
    found = Path(path).stat()
    _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _load(path: str, _changed_at: int, _size: int) -> None:
    """Raise OSError if the file has no certificates; one that has some is read once, because that takes 20 ms."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)


def _check_folders(paths: str) -> None:
    """Raise OSError unless one of the folders exists, or SSL_CERT_FILE takes precedence."""
    if not os.environ.get("SSL_CERT_FILE") and not any(Path(path).is_dir() for path in paths.split(os.pathsep)):
        raise NotADirectoryError(None, "no such folder")


def _check_log(path: str) -> None:
    with Path(path).open("ab"):
        pass


_CHECKS: Final[dict[str, Callable[[str], object]]] = {
    "SSL_CERT_FILE": _check_file,
    "SSL_CERT_DIR": _check_folders,
    "SSLKEYLOGFILE": _check_log,
}
