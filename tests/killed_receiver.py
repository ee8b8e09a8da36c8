"""A webhook server in a process that is killed and started again on the same port and folder."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from forked import Forked
from ports import free_port

import tgmembership_async

if TYPE_CHECKING:
    import subprocess


class Shop:
    """Runs `python SCRIPT KIND PORT FOLDER`. The script appends a line to FOLDER/handled in each call of a handler."""

    def __init__(self, script: Path, kind: str, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/tgmembership"
        self._command = [sys.executable, str(script), kind, str(self.port), str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and wait until it listens."""
        # The same package as in this process, installed or not.
        environment = {**os.environ, "PYTHONPATH": str(Path(tgmembership_async.__file__).parents[1])}
        self._process = Forked(self._command, env=environment)
        until(self._answers, "it does not start")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self, how: signal.Signals) -> int:
        """Send a signal, and return the exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        code, self._process = self._process.wait(20), None
        return code

    @property
    def handled(self) -> list[list[str]]:
        """Return the words of each line of FOLDER/handled."""
        path = self.folder / "handled"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)


def until(condition: Callable[[], object], why: str, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, why
        time.sleep(0.02)
