"""The command line as processes that cost little: one process loads what commands need, and forks for each of them.

Each command still has a process of its own, with its own environment, output and end; what it is spared is the half of
a second in which HTTP libraries are imported.
"""

import json
import os
import select
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

_COMMANDS: Final = ("root", "call", "doctor", "grant", "grants", "provision", "reads", "report", "report_view")
_LOADED: Final = (
    *(f"tgmembership_async.cli.{name}" for name in _COMMANDS),
    "tgmembership_async.transport.httpx",
    "anyio._backends._asyncio",
)


class Forks:
    """Runs commands between entering and leaving; `folder` is for what they print."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self.environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.communicate(timeout=60)

    def piped(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a command whose output is no terminal."""
        out, err = self._folder / "out", self._folder / "err"
        out.write_text("")
        err.write_text("")
        self._begin(arguments, environment, str(out), str(err))
        return self._ended(), out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")

    def on_a_terminal(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Return the exit code of a command on a pseudo-terminal, and all that it showed."""
        ours, theirs = os.openpty()
        try:
            self._begin(arguments, environment, os.ttyname(theirs), os.ttyname(theirs))
            shown = b""
            while ours in select.select([ours, self._told.fileno()], [], [])[0]:
                shown += os.read(ours, 65536)
            return self._ended(), shown.decode()
        finally:
            os.close(theirs)
            os.close(ours)

    def _begin(self, arguments: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        job = {"arguments": arguments, "environment": self.environment | environment, "out": out, "err": err}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    @property
    def _told(self) -> IO[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def _ended(self) -> int:
        return int(self._told.readline())


def carry_out(job: dict[str, Any]) -> None:
    """Be the command: with this environment and these outputs."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_APPEND | os.O_NOCTTY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    import_module("tgmembership_async.cli").main(job["arguments"])


def serve() -> None:
    """Fork for each job that stdin names, and tell its exit code."""
    for name in _LOADED:
        import_module(name)
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            carry_out(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201 - to who started it


if __name__ == "__main__":
    serve()
