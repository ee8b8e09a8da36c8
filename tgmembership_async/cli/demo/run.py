"""The demo's evening job: `tgmembership provision` in a process of its own, killed on the way and started again."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import field, mutable

from tgmembership_async.errors import UsageError

_ATTEMPTS: Final = 8
_BACKOFF: Final = 0.05
_FAILED: Final = frozenset({2, 5})
_UNFINISHED: Final = 1
_MOST_ENDS: Final = 5


@mutable
class Books:
    """What the workers have told so far: the newest status of each ref, and how often one was killed."""

    statuses: dict[str, str] = field(factory=dict[str, str])
    counts: Counter[str] = field(factory=Counter[str])
    kills: int = 0

    def note(self, told: Mapping[str, Any]) -> None:
        """Take note of one line of a worker."""
        before = self.statuses.get(told["ref"])
        if before is not None:
            self.counts[before] -= 1
        self.statuses[told["ref"]] = told["status"]
        self.counts[told["status"]] += 1


def command_of(members: Path, ledger: Path, plan_id: int, concurrency: int) -> list[str]:
    """Return the arguments of `tgmembership` that do the job; patience is short, for the demo's faults are quick."""
    options = {
        "--plan-id": plan_id,
        "--ledger": ledger,
        "--concurrency": concurrency,
        "--attempts": _ATTEMPTS,
        "--backoff": _BACKOFF,
    }
    return ["provision", str(members), *(str(word) for option in options.items() for word in option)]


def carry_out(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    books: Books,
    kill_at: Sequence[int],
    changed: Callable[[bool], object],
) -> None:
    """Run workers until one ends by itself with every member settled.

    Each number in `kill_at` is how many members must be done when the worker of that moment is killed. `changed` is
    called after each line, and with True after a kill. KeyboardInterrupt ends the worker kindly, notes its last words,
    and goes on.
    """
    marks = list(kill_at)
    for _ in range(len(marks) + _MOST_ENDS):
        killed = False
        with _worker(arguments, environment) as worker:
            try:
                for told in _lines(worker):
                    books.note(told)
                    changed(False)
                    if marks and not killed and len(books.statuses) >= marks[0]:
                        worker.kill()  # SIGKILL where there is one
                        killed = True
            except KeyboardInterrupt:
                worker.terminate()
                for told in _lines(worker):
                    books.note(told)
                raise
            last_words = worker.stderr.read() if worker.stderr is not None else ""
        if killed:
            marks.pop(0)
            books.kills += 1
            changed(True)
        elif worker.returncode in _FAILED:
            raise UsageError(last_words.strip().rpartition("\n")[2])
        elif worker.returncode != _UNFINISHED:
            return


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
        # Ctrl-C is for us alone: we pass it on as a kind end, once.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()


def _lines(worker: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None  # noqa: S101 - a pipe
    for text in worker.stdout:
        if text.endswith("\n"):  # the last line of a worker that was killed may be half of one
            yield json.loads(text)
