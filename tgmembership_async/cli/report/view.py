"""Print a report as tables with bar charts."""

from collections.abc import Sequence
from typing import Final

from attrs import evolve
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tgmembership_async.cli.output import console, shown
from tgmembership_async.cli.report.figures import Commands, Section, Series, figure, sum_of
from tgmembership_async.protocol.envelope import printable

_MAX_BAR: Final = 40
_MIN_BAR: Final = 4
_MAX_HOLDS: Final = 10
_MAX_ROWS: Final = 60
_COLOURS: Final = {
    "delivered": "blue",
    "granted": "green",
    "planned": "cyan",
    "sending": "magenta",
    "unknown": "yellow",
    "refused": "red",
    "abandoned": "bright_black",
    "hue0": "blue",
    "hue1": "green",
    "hue2": "yellow",
    "hue3": "magenta",
    "hue4": "cyan",
    "rest": "bright_black",
}


def show(sections: Sequence[Section]) -> None:
    """Print every section, at most as wide as the terminal; commands are never broken, so that they can be copied."""
    screen = console()
    for section in sections:
        screen.print(Text(printable(section.title), "bold"))
        if section.problem:
            screen.print(_indented(Text(f"no figures: {printable(section.problem)}", "yellow")))
        else:
            screen.print(_indented(Text(_described(section), "dim")))
        if section.labels:
            _show_rows(screen, _last(section))
        elif section.kind == "bars" and not section.problem:
            screen.print(_indented(Text("none")))
        _show_holds(screen, section)
        screen.print()


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _described(section: Section) -> str:
    hidden = len(section.labels) - _MAX_ROWS
    more = f" The first {hidden:,} are left out; --format csv and --html have them." if hidden > 0 else ""
    return printable(section.text) + more


def _show_holds(screen: Console, section: Section) -> None:
    _show_commands(screen, section.commands)
    for hold in section.holds[:_MAX_HOLDS]:
        screen.print()
        screen.print(Text.assemble("  ", (printable(hold.ref), "bold"), "  ", (hold.status, _COLOURS[hold.status])))
        screen.print(_indented(Text(f"{printable(hold.about)}: {printable(hold.why)}", "dim")))
        _show_commands(screen, hold.commands)
    if len(section.holds) > _MAX_HOLDS:
        screen.print(Text(f"\n  The first {_MAX_HOLDS} are shown; --format jsonl and --html have more."))


def _show_commands(screen: Console, commands: Commands) -> None:
    for what, line in commands:
        screen.print(Text(f"  {what}:"))
        screen.print(Text(f"    {shown(line)}"), soft_wrap=True)


def _show_rows(screen: Console, section: Section) -> None:
    table = section
    if len(section.series) > 1 and _bar_width(screen, section) < 0:  # too many columns for this terminal
        table = evolve(section, series=(Series("total", tuple(sum_of(values) for _, values in section.rows)),))
        names = (Text(printable(one.name), _COLOURS[one.hue]) for one in section.series)
        screen.print(_indented(Text(", ").join(names)))
    screen.print(_table(screen, section, table))


def _table(screen: Console, section: Section, figures: Section) -> Table:
    """Return the table of `figures`, with bars of the parts of `section`."""
    most = max((float(sum_of(values) or 0) for _, values in section.rows), default=0)
    width = _bar_width(screen, figures) if section.kind != "cards" else 0
    has_bars = width >= _MIN_BAR
    table = Table(box=box.SIMPLE_HEAD, show_header=section.kind != "cards")
    table.add_column("" if section.kind != "columns" else section.head, overflow="fold")
    for series in figures.series:
        colour = _COLOURS[series.hue] if len(figures.series) > 1 else ""
        table.add_column(Text(printable(series.name), colour), justify="right")
    if has_bars:
        table.add_column("", no_wrap=True)
    for (name, values), (_, told) in zip(section.rows, figures.rows, strict=True):
        cells = [Text(printable(name)), *(Text(figure(value)) for value in told)]
        if has_bars:
            parts = ((series, float(value or 0)) for series, value in zip(section.series, values, strict=True))
            cells.append(_bar(list(parts), most, width, ascii_only=screen.options.ascii_only))
        table.add_row(*cells)
    return table


def _last(section: Section) -> Section:
    """Return a section with its last rows only, if it has very many."""
    if section.kind != "columns":
        return section
    series = tuple(evolve(one, values=one.values[-_MAX_ROWS:]) for one in section.series)
    return evolve(section, labels=section.labels[-_MAX_ROWS:], series=series)


def _bar_width(screen: Console, section: Section) -> int:
    """Return the maximum width of a bar next to the labels and figures; negative if these are too wide."""
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
        bar.append(("#" if ascii_only else "█") * length, _COLOURS[series.hue])
    return bar
