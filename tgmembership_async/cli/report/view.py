"""Print a report as tables with bar charts."""

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tgmembership_async.cli.output import console
from tgmembership_async.cli.report.charts import figure, sum_of
from tgmembership_async.cli.report.figures import Section, Series
from tgmembership_async.protocol.envelope import printable

_MAX_BAR: Final = 40
_MIN_BAR: Final = 4
_COLOURS: Final = {
    "delivered": "blue",
    "granted": "green",
    "planned": "cyan",
    "sending": "magenta",
    "unknown": "yellow",
    "refused": "red",
    "abandoned": "bright_black",
}


def show(sections: Sequence[Section]) -> None:
    """Print every section, at most as wide as the terminal."""
    screen = console()
    for section in sections:
        screen.print(Text(printable(section.title), "bold"))
        if section.problem:
            screen.print(Text(f"  no figures: {printable(section.problem)}", "yellow"))
        else:
            screen.print(Text(f"  {printable(section.text)}", "dim"))
        if section.labels:
            screen.print(_table(screen, section))
        screen.print()


def _table(screen: Console, section: Section) -> Table:
    totals = [float(sum_of(values) or 0) for _, values in section.rows]
    most = max(totals, default=0)
    table = Table(box=box.SIMPLE_HEAD, show_header=section.kind != "cards")
    table.add_column("from" if section.kind == "columns" else "", overflow="fold")
    for series in section.series:
        table.add_column(Text(printable(series.name)), justify="right")
    width = _bar_width(screen, section) if section.kind != "cards" else 0
    if width >= _MIN_BAR:
        table.add_column("", no_wrap=True)
    for name, values in section.rows:
        cells = [Text(printable(name)), *(Text(figure(value)) for value in values)]
        if width >= _MIN_BAR:
            parts = ((series, float(value or 0)) for series, value in zip(section.series, values, strict=True))
            cells.append(_bar(list(parts), most, width, ascii_only=screen.options.ascii_only))
        table.add_row(*cells)
    return table


def _bar_width(screen: Console, section: Section) -> int:
    """Return the maximum width of a bar next to the labels and figures."""
    name = max(len(printable(label)) for label in section.labels)
    figures = sum(
        max(len(series.name), *(len(figure(value)) for value in series.values)) + 3 for series in section.series
    )
    return min(_MAX_BAR, screen.width - name - figures - 8)


def _bar(parts: Sequence[tuple[Series, float]], most: float, width: int, *, ascii_only: bool) -> Text:
    """Return a bar of parts in whole characters; rounding their ends keeps the total length right."""
    bar, upto = Text(), 0.0
    for series, value in parts:
        upto += value
        length = round(width * upto / most) - len(bar) if most else 0
        bar.append(("#" if ascii_only else "█") * length, _COLOURS.get(series.name, "blue"))
    return bar
