"""Promise: wherever the program is killed, after a restart each member is granted once, and none is lost."""

from pathlib import Path

import pytest
from crash_run import crash_and_restore, crash_and_resume


def test_ten_kills_lose_nobody_and_grant_nobody_twice(tmp_path: Path) -> None:
    crash_and_resume(tmp_path, members=300, kills=10, seed=1).check()


def test_copies_and_a_restore_between_kills_lose_nobody_and_grant_nobody_twice(tmp_path: Path) -> None:
    crash_and_restore(tmp_path, members=240, kills=6, seed=1).check()


@pytest.mark.crash
def test_a_hundred_kills_lose_nobody_and_grant_nobody_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = crash_and_resume(tmp_path, members=3_000, kills=100, seed=2)
    found.publish("crash", "one file", capsys)
    found.check()


@pytest.mark.crash
def test_copies_and_restores_between_sixty_kills_lose_nobody_and_grant_nobody_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = crash_and_restore(tmp_path, members=3_000, kills=60, seed=3)
    found.publish("crash", "one file, copied 20 times and restored 10 times", capsys)
    found.check()
