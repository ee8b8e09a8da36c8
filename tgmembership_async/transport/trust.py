"""The TLS settings of a transport that was told none, or a UsageError that names the variable that spoils them."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tgmembership_async.errors import UsageError


def trusted(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return what `make` returns; raise UsageError if what the environment says about TLS cannot be used."""
    check_environment()
    return make()


def check_environment() -> None:
    """Raise UsageError if a variable of the environment names something for TLS that cannot be used."""
    for variable, check in _CHECKS.items():
        path = os.environ.get(variable)
        if path:
            _check(variable, path, check)


def _check(variable: str, path: str, check: Callable[[str], object]) -> None:
    try:
        check(path)
    except OSError as error:  # an SSLError too
        why = error.strerror or type(error).__name__
    else:
        return
    msg = f"the environment variable {variable} names {path!r}, which cannot be used for TLS: {why}"
    raise UsageError(msg)


def _check_file(path: str) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)


def _check_folders(paths: str) -> None:
    """Raise OSError unless one of the folders is there; they are not looked at beside a file."""
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
