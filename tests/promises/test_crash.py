"""Promise: wherever the program is killed, after a restart each member is granted once, and none is lost."""

from pathlib import Path

import pytest
from crash_run import CONCURRENCY, Aftermath, crash_and_resume, told


def check(found: Aftermath) -> None:
    assert found.granted_twice == []
    assert found.lost == []
    assert found.granted_in_vain == []
    assert found.unknown <= found.kills * CONCURRENCY + found.replies_destroyed
    assert found.exit_code == (4 if found.unknown else 0)


def test_ten_kills_lose_nobody_and_grant_nobody_twice(tmp_path: Path) -> None:
    check(crash_and_resume(tmp_path, members=300, kills=10, seed=1))


@pytest.mark.crash
def test_a_hundred_kills_lose_nobody_and_grant_nobody_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = crash_and_resume(tmp_path, members=3_000, kills=100, seed=2)
    with capsys.disabled():
        print(told(found))  # noqa: T201 - what the long run is for
    check(found)
