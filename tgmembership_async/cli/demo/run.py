"""Run `tgmembership provision` as a child process, kill it several times and restart it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final, Protocol

from attrs import field, mutable

from tgmembership_async.errors import UsageError

_ATTEMPTS: Final = 8
_BACKOFF: Final = 0.05
_FAILED: Final = frozenset({2, 5})
_UNFINISHED: Final = 1
_MAX_RESTARTS: Final = 5


@mutable
class Results:
    """The latest status of each ref, the number of refs by status, and the number of kills."""

    statuses: dict[str, str] = field(factory=dict[str, str])
    counts: Counter[str] = field(factory=Counter[str])
    kills: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Record one row of a worker's output."""
        before = self.statuses.get(row["ref"])
        if before is not None:
            self.counts[before] -= 1
        self.statuses[row["ref"]] = row["status"]
        self.counts[row["status"]] += 1


class Killer(Protocol):
    """The conditions under which a worker is killed."""

    def arm(self, kill: Callable[[], object]) -> int | None:
        """Call `kill` once, at the next kill point; return how many members are done before it, or None."""
        ...

    def disarm(self) -> bool:
        """Kill no more; return whether the worker waits for something that only a kill would end."""
        ...


def provision_arguments(members: Path, ledger: Path, plan_id: int, concurrency: int) -> list[str]:
    """Return the arguments of `tgmembership`; the backoff is short because the demo's faults are."""
    options = {
        "--plan-id": plan_id,
        "--ledger": ledger,
        "--concurrency": concurrency,
        "--attempts": _ATTEMPTS,
        "--backoff": _BACKOFF,
    }
    return ["provision", str(members), *(str(word) for option in options.items() for word in option)]


def run_workers(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    results: Results,
    killer: Killer,
    changed: Callable[[int | None], object],
) -> None:
    """Run workers one after another until one ends by itself with no member left planned.

    Each worker is killed when `killer` says so. `changed` is called after each row, and after a kill with the number of
    members done before it; `killer` is disarmed at the end. On KeyboardInterrupt the worker is terminated, its
    remaining rows are recorded, and the exception is raised again. Raises UsageError if a worker cannot start.
    """
    restarts = 0
    while restarts < _MAX_RESTARTS:
        killed = Event()
        with _worker(arguments, environment) as worker:

            def kill(worker: "subprocess.Popen[str]" = worker, killed: Event = killed) -> None:
                killed.set()
                worker.kill()  # SIGKILL if the platform has it

            point = killer.arm(kill)
            try:
                for row in _rows(worker):
                    results.add(row)
                    changed(None)
            except KeyboardInterrupt:
                (worker.kill if killer.disarm() else worker.terminate)()
                for row in _rows(worker):
                    results.add(row)
                raise
            errors = worker.stderr.read() if worker.stderr is not None else ""
        if killed.is_set():
            results.kills += 1
            changed(point)
        elif worker.returncode in _FAILED:
            raise UsageError(errors.strip().rpartition("\n")[2])
        elif worker.returncode != _UNFINISHED:
            break
        else:
            restarts += 1
    killer.disarm()


@contextmanager
def _worker(arguments: Sequence[str], environment: Mapping[str, str]) -> "Generator[subprocess.Popen[str]]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TGMEMBERSHIP_")}
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "tgmembership_async.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, **environment, "NO_PROXY": "*", "no_proxy": "*"},
        # Keep Ctrl-C from the child process: the parent sends it SIGTERM, once.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()


def _rows(worker: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None  # noqa: S101 - a pipe
    for text in worker.stdout:
        if text.endswith("\n"):  # the last line of a killed worker may be incomplete
            yield json.loads(text)
