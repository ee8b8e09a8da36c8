"""Snapshot tests: compare the output of a command with an approved copy.

`TGM_APPROVE=1 pytest tests/cli` writes what is printed now; look at the difference before you commit it.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

from command_line import COMMAND
from forked import Forked

SNAPSHOTS: Final = Path(__file__).parent / "cli" / "snapshots"
_APPROVE: Final = bool(os.environ.get("TGM_APPROVE"))
_CHANGING: Final = (
    ("\r\n", "\n"),
    (r"\x1b\[[0-9;]*m", ""),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", "2026-11-20T12:00:00.000000+00:00"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-20 12:00:00"),
    (r"in \d+\.\d s", "in 0.0 s"),
    (r"\b\d+ ms", "0 ms"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8000"),
    (r"tgmembership-async [^\"]+? anyio [\d.]+", "tgmembership-async 0.1.0 and what is below it"),
    (r"(?m)[ \t]+$", ""),
)


def steady(text: str) -> str:
    """Return a text without colours, with timestamps and durations replaced by fixed ones."""
    for pattern, told in _CHANGING:
        text = re.sub(pattern, told, text)
    return text


def in_a_pipe(*arguments: str, environment: dict[str, str]) -> tuple[int, str, str]:
    """Run the command; return its exit code, stdout and stderr."""
    with Forked(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    ) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def on_a_terminal(
    *arguments: str,
    environment: dict[str, str],
    python: type["subprocess.Popen[Any]"] = Forked,
    folder: Path | None = None,
) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; return its exit code and its output."""
    ours, theirs = os.openpty()
    try:
        with python(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=folder,
        ) as process:
            os.close(theirs)
            shown = _all_of(ours)
            return process.wait(60), shown
    finally:
        os.close(ours)


def _all_of(terminal: int) -> str:
    shown = b""
    try:
        while more := os.read(terminal, 65536):
            shown += more
    except OSError:  # EIO: the other end is closed
        pass
    return shown.decode()


def approve(name: str, printed: str) -> None:
    """Compare with the approved output `name`, or write it if TGM_APPROVE is set."""
    path = SNAPSHOTS / f"{name}.txt"
    text = steady(printed)
    if _APPROVE:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{name} is not approved yet: see {Path(__file__).name}"
    assert text == path.read_text(encoding="utf-8")
