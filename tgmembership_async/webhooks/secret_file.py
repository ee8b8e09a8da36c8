"""A file with webhook secrets, which may not exist yet, and is read again when it changes."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Final, Generic, TypeVar

from tgmembership_async.errors import UsageError
from tgmembership_async.settings import secret_in
from tgmembership_async.values.secret import Secret

T = TypeVar("T")
_SETTLED: Final = 2.0
_logger: Final = logging.getLogger("tgmembership_async.webhooks")


class NoSecret(UsageError):
    """The file has no usable secret now, so nothing can be verified; a delivery may be authentic all the same."""


class SecretFile(Generic[T]):
    """The secrets in a file, one on each line, each as `prepare` returns it; prepared again when the file changes."""

    def __init__(self, path: str | os.PathLike[str], prepare: Callable[[Secret], T]) -> None:
        self.path: Path = Path(path)
        self._prepare = prepare
        self._version: tuple[int, ...] | None = None
        self._prepared: tuple[T, ...] = ()
        self._is_warned = False

    def read(self) -> tuple[T, ...]:
        """Return the secrets. Raises NoSecret if there is no file, or none in it, or it cannot be read."""
        try:
            found = self.path.stat()
            version = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            if version != self._version:
                self._prepared = self._load()
                # A file that was just written may change again without another time: look at it again.
                self._version = version if time() - found.st_mtime > _SETTLED else None
                self._check_mode(found.st_mode)
        except (OSError, UsageError) as error:
            self._prepared, self._version = (), None
            why = str(error) if isinstance(error, UsageError) else f"{self.path} cannot be read: {error.strerror}"
        else:
            why = f"{self.path} is empty"
        if self._prepared:
            return self._prepared
        msg = f"no webhook secret yet: {why}"
        raise NoSecret(msg)

    def _load(self) -> tuple[T, ...]:
        # A function of its own, so that the frame that raises NoSecret has no secret.
        text = secret_in(self.path, str(self.path)).reveal()
        return tuple(self._prepare(Secret(line)) for line in text.split())

    def _check_mode(self, mode: int) -> None:
        if os.name == "posix" and stat.S_ISREG(mode) and mode & stat.S_IRWXO and not self._is_warned:
            self._is_warned = True
            _logger.warning("%s holds a webhook secret that every user of this machine may read: chmod 600", self.path)
