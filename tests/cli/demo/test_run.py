"""The demo's workers: killed at their marks, started again while there is more to do, and believed when they fail."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tgmembership_async.cli.demo.run import Books, carry_out
from tgmembership_async.errors import UsageError

LINE = 'print(\'{"ref": "r%d", "status": "%s"}\', flush=True); '


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let workers be these programs, one after the other."""
    programs: list[str] = []

    class Worker(subprocess.Popen[str]):
        def __init__(self, _: Sequence[str], **options: Any) -> None:
            super().__init__([sys.executable, "-c", programs.pop(0)], cwd=tmp_path, **options)

    monkeypatch.setattr(subprocess, "Popen", Worker)
    return programs


def test_a_worker_is_killed_at_its_mark_and_another_takes_over(ends: list[str]) -> None:
    ends += [LINE % (1, "granted") + "import time; time.sleep(60)", LINE % (1, "unknown") + LINE % (2, "granted")]
    books, kills = Books(), list[bool]()
    carry_out([], {}, books, [1], kills.append)
    assert (books.statuses, books.kills) == ({"r1": "unknown", "r2": "granted"}, 1)
    assert {name: count for name, count in books.counts.items() if count} == {"unknown": 1, "granted": 1}
    assert kills == [False, True, False, False]


def test_half_a_line_of_a_killed_worker_is_left_out(ends: list[str]) -> None:
    ends += [LINE % (1, "granted") + "print('{\"ref\"', end='', flush=True)"]
    books = Books()
    carry_out([], {}, books, [], lambda _: None)
    assert books.statuses == {"r1": "granted"}


def test_a_worker_that_left_something_planned_is_followed_by_another(ends: list[str]) -> None:
    ends += ["raise SystemExit(1)", "raise SystemExit(4)", "never reached"]
    carry_out([], {}, Books(), [], lambda _: None)
    assert ends == ["never reached"]


def test_workers_that_never_get_done_come_to_an_end(ends: list[str]) -> None:
    ends += ["raise SystemExit(1)"] * 9
    carry_out([], {}, Books(), [], lambda _: None)
    assert len(ends) == 4


def test_a_worker_that_cannot_work_is_quoted(ends: list[str]) -> None:
    ends += ["import sys; sys.stderr.write('why'); sys.exit(2)"]
    with pytest.raises(UsageError, match="why"):
        carry_out([], {}, Books(), [], lambda _: None)


def test_an_interrupt_lets_the_worker_have_its_last_words(ends: list[str]) -> None:
    last = LINE.replace("print", "lambda *_: print") % (2, "granted")
    ends += [
        f"import signal, time; signal.signal(signal.SIGTERM, {last.rstrip('; ')}); "
        + LINE % (1, "granted")
        + "time.sleep(0.5); time.sleep(0)"
    ]
    books = Books()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out([], {}, books, [], interrupt)
    assert books.statuses == {"r1": "granted", "r2": "granted"}
