"""A progress bar on stderr with counts by outcome; not shown if stderr is not a terminal."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_COLOURS: Final = {"granted": "green", "refused": "red", "unknown": "yellow", "kills": "magenta"}
_WIDE: Final = 80
"""Columns of a terminal that has room for a bar and the rate."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Bar:
    """Shows how many of `total` rows are done, the counts named in `names`, the rate and the time left.

    If the total is not known, the bar appears with the first call of `show`.
    """

    def __init__(
        self, console: Console, total: int | None, names: tuple[str, ...] = ("granted", "refused", "unknown")
    ) -> None:
        self._names = names
        self.shown: bool = console.is_terminal
        wide = console.width >= _WIDE
        self._progress = Progress(
            *([BarColumn(bar_width=min(30, console.width - 70))] if wide else ()),
            MofNCompleteColumn(),
            *(TextColumn(f"[{_COLOURS[name]}]{{task.fields[{name}]}} {name}") for name in names),
            *([_Rate()] if wide else ()),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # output for a pipe must not go to the terminal
        )
        self._task = self._progress.add_task("", total=total, **self._of({}))

    def _of(self, counts: Mapping[str, int]) -> dict[str, Any]:
        return {name: counts.get(name, 0) for name in self._names}

    def show(self, done: int, counts: Mapping[str, int]) -> None:
        """Update the number of rows done and the counts."""
        if not self.shown:
            return
        self._progress.start()
        self._progress.update(self._task, completed=done, **self._of(counts))

    def __enter__(self) -> Self:
        if self.shown and self._progress.tasks[0].total is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:  # rich 13 prints an empty line even after a disabled bar
            self._progress.stop()
