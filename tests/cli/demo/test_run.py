"""The demo's workers: killed at their points, restarted while members are left, and quoted when they cannot start."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tgmembership_async.cli.demo.run import Results, run_workers
from tgmembership_async.errors import UsageError

LINE = 'print(\'{"ref": "r%d", "status": "%s"}\', flush=True); '


class Killer:
    """Kills each worker once it has printed a row, as often as there are points."""

    def __init__(self, *points: int) -> None:
        self.points = list(points)
        self.changes: list[int | None] = []
        self.kill: Callable[[], object] | None = None
        self.disarmed = False

    def arm(self, kill: Callable[[], object]) -> int | None:
        self.kill = kill if self.points else None
        return self.points.pop(0) if self.points else None

    def disarm(self) -> bool:
        self.disarmed = True
        return False

    def changed(self, killed_after: int | None) -> None:
        self.changes.append(killed_after)
        if self.kill is not None:
            self.kill()
            self.kill = None


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the workers by these programs, one after the other."""
    programs: list[str] = []

    class Worker(subprocess.Popen[str]):
        def __init__(self, _: Sequence[str], **options: Any) -> None:
            super().__init__([sys.executable, "-c", programs.pop(0)], cwd=tmp_path, **options)

    monkeypatch.setattr(subprocess, "Popen", Worker)
    return programs


def test_a_worker_is_killed_at_its_point_and_another_continues(ends: list[str]) -> None:
    ends += [LINE % (1, "granted") + "import time; time.sleep(60)", LINE % (1, "unknown") + LINE % (2, "granted")]
    results, killer = Results(), Killer(7)
    run_workers([], {}, results, killer, killer.changed)
    assert (results.statuses, results.kills) == ({"r1": "unknown", "r2": "granted"}, 1)
    assert {name: count for name, count in results.counts.items() if count} == {"unknown": 1, "granted": 1}
    assert killer.changes == [None, 7, None, None]


def test_an_incomplete_line_of_a_killed_worker_is_ignored(ends: list[str]) -> None:
    ends += [LINE % (1, "granted") + "print('{\"ref\"', end='', flush=True)"]
    results = Results()
    run_workers([], {}, results, Killer(), lambda _: None)
    assert results.statuses == {"r1": "granted"}


def test_a_worker_that_left_something_planned_is_followed_by_another(ends: list[str]) -> None:
    ends += ["raise SystemExit(1)", "raise SystemExit(4)", "never reached"]
    run_workers([], {}, Results(), Killer(), lambda _: None)
    assert ends == ["never reached"]


def test_no_kill_remains_after_the_last_worker(ends: list[str]) -> None:
    ends += ["raise SystemExit(0)"]
    killer = Killer(7)
    run_workers([], {}, Results(), killer, killer.changed)
    assert killer.disarmed


def test_workers_that_never_finish_are_restarted_a_limited_number_of_times(ends: list[str]) -> None:
    ends += ["raise SystemExit(1)"] * 9
    run_workers([], {}, Results(), Killer(), lambda _: None)
    assert len(ends) == 4


def test_the_error_of_a_worker_that_cannot_start_is_quoted(ends: list[str]) -> None:
    ends += ["import sys; sys.stderr.write('why'); sys.exit(2)"]
    with pytest.raises(UsageError, match="why"):
        run_workers([], {}, Results(), Killer(), lambda _: None)


def test_after_an_interrupt_the_remaining_rows_are_recorded(ends: list[str]) -> None:
    ends += [
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        + LINE % (1, "granted")
        + "signal.sigtimedwait({signal.SIGTERM}, 60); "
        + LINE % (2, "granted")
    ]
    results = Results()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    killer = Killer()
    with pytest.raises(KeyboardInterrupt):
        run_workers([], {}, results, killer, interrupt)
    assert killer.disarmed
    assert results.statuses == {"r1": "granted", "r2": "granted"}
