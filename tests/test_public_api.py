"""The public API is the one in `public_api.txt`, so that it changes only on purpose."""

import shutil
from difflib import unified_diff
from pathlib import Path

import pytest
from public_api import PACKAGE, ROOT, SHOWN, SNAPSHOT, lines


@pytest.fixture(scope="module")
def now() -> list[str]:
    return lines()


def test_the_public_api_is_the_one_that_was_written_down(now: list[str]) -> None:
    written = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    _, _, *changes = list(unified_diff(written, now, n=0, lineterm="")) or ["", ""]
    assert not changes, (
        "the public API has changed. A line with - may break somebody's program: say so in changes/*.breaking.md. "
        "Then write down what it is now: python tests/public_api.py\n" + "\n".join(changes)
    )


BREAKS = [  # a parameter more, another name, another type
    ("count_users(self, *,", "count_users(self, strict, *,", "count_users("),
    ("def delete_webhook(", "def remove_webhook(", "delete_webhook("),
    ("def generation(self) -> str:", "def generation(self) -> int:", "generation: str"),
]


def test_what_may_break_a_program_shows(now: list[str], tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    changed = Path(shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=ignored)) / "session.py"
    source = changed.read_text(encoding="utf-8")
    for before, after, _ in BREAKS:
        assert before in source
        source = source.replace(before, after, 1)
    changed.write_text(source, encoding="utf-8")

    shown = sorted(set(now) - set(lines(tmp_path)))

    for line, (*_, gone) in zip(shown, BREAKS, strict=True):
        assert f"{PACKAGE}.Session.{gone}" in line


def test_no_public_package_is_left_out() -> None:
    folders = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders - {*SHOWN} == {"cli", "protocol", "storage", "transport", "values"}
