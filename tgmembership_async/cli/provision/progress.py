"""A progress bar on stderr with counts by outcome; not shown where stderr is not a terminal."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_COLOURS: Final = {"granted": "green", "refused": "red", "unknown": "yellow", "kills": "magenta"}


class Bar:
    """Shows how many of `total` rows are done, and the counts named in `names`."""

    def __init__(
        self, console: Console, total: int, names: tuple[str, ...] = ("granted", "refused", "unknown")
    ) -> None:
        self._names = names
        self.shown: bool = console.is_terminal
        self._progress = Progress(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            *(TextColumn(f"[{_COLOURS[name]}]{{task.fields[{name}]}} {name}") for name in names),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # output for a pipe must not go to the terminal
        )
        self._task = self._progress.add_task("", total=total, **self._of({}))

    def _of(self, counts: Mapping[str, int]) -> dict[str, Any]:
        return {name: counts.get(name, 0) for name in self._names}

    def show(self, done: int, counts: Mapping[str, int]) -> None:
        """Update the number of rows done and the counts."""
        self._progress.update(self._task, completed=done, **self._of(counts))

    def __enter__(self) -> Self:
        if self.shown:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.shown:  # rich 13 prints an empty line even after a disabled bar
            self._progress.stop()
