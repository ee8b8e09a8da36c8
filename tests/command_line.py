"""Run the command line as a user does: in its own process, on pipes or on a terminal."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from forked import Forked

COMMAND = [sys.executable, "-m", "tgmembership_async.cli"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color", "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"}


def tgmembership(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end, with stdin empty and output in pipes."""
    with started(*arguments) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def started(*arguments: str, stderr: int = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    """Start the command in the background, and kill it at the end unless it has exited."""
    with Forked(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A pseudo-terminal: the process writes to `theirs`, and `shown` is its output so far."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        self.shown = ""

    def read_until(self, pattern: str, seconds: float = 60) -> None:
        """Read until `pattern` was shown, or fail."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, f"{pattern!r} was not shown, but {self.shown[-500:]!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 65536).decode()

    def write(self, text: str, end: str = "\n") -> None:
        """Type a line, and press return."""
        os.write(self._ours, f"{text}{end}".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ours)
        os.close(self.theirs)
