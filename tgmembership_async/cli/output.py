"""Rows for people on a terminal, and for programs in a pipe: one writer for each `--format`.

Money and other exact numbers are strings in JSON, so that no reader rounds them. A cell of CSV that is an object or an
array holds its JSON; text that a spreadsheet would take for a formula has a `'` in front. What the service, a customer
or a file's name brings along commands no terminal: control characters are shown escaped.
"""

import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import click

from tgmembership_async.cli.grant_lines import line, plain
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.objects import is_array, is_object

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# ruff: noqa: PLC0415 - rich takes a tenth of a second to load, and a pipe has no use for it

F = TypeVar("F", bound=Callable[..., Any])
Fields = Mapping[str, Any]
Format = Literal["auto", "table", "json", "jsonl", "csv"]
_FORMATS: Final = ("auto", "table", "json", "jsonl", "csv")
_WIDE_ENOUGH: Final = 1_000
_LONGEST_NOTE: Final = 10_000
_NUMBERS: Final = (int, Decimal, type(None))
_FORMULA: Final = re.compile(r"[=+\-@\t\r\n].", re.DOTALL)

format_option: Final = click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="auto",
    show_default=True,
    help="How to print rows; auto is a table on a terminal and JSON lines in a pipe.",
)
stream_option: Final = click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="jsonl",
    show_default=True,
    help="How to print rows; jsonl and csv come one by one, as soon as each outcome is durable.",
)


class Writer(Protocol):
    """Takes rows one by one, all with the same fields; `begun` tells whether one came."""

    @property
    def begun(self) -> bool:  # noqa: D102 - told above
        ...

    def row(self, fields: Fields) -> None:
        """Write a row, now or at the end."""
        ...

    def end(self) -> None:
        """Write what is left."""
        ...


def resolved(form: Format) -> Format:
    """Return the format that `auto` stands for here."""
    if form != "auto":
        return form
    return "table" if sys.stdout.isatty() else "jsonl"


@contextmanager
def writing(form: Format, columns: Sequence[str], styles: Mapping[str, str] | None = None) -> Generator[Writer]:
    """Yield a writer of rows on stdout; `styles` colours cells of a table by their text."""
    writer = _WRITERS[resolved(form)](columns, styles or {})
    try:
        yield writer
    except BaseException:
        if writer.begun:  # what was done before it failed is shown, and JSON is whole
            writer.end()
        raise
    writer.end()


def write_one(form: Format, fields: Fields, styles: Mapping[str, str] | None = None) -> None:
    """Write the one thing there is: in a table its fields stand below each other, in JSON it is an object."""
    how = resolved(form)
    if how == "json":
        _say(json.dumps(fields, indent=2, default=plain))
    elif how == "table":
        console().print(_facts(fields, styles or {}))
    else:
        with writing(how, tuple(fields)) as out:
            out.row(fields)


def note(sentence: str) -> None:
    """Tell a person something beside the output, in one line without control characters."""
    click.echo(shown(sentence), err=True)


def shown(text: str) -> str:
    """Return text of whatever origin as one line that a terminal only shows."""
    return printable(text, _LONGEST_NOTE)


def hint(*words: object) -> str:
    """Return a command of ours, quoted as a shell takes it."""
    return shlex.join(["tgmembership", *map(str, words)])


def console() -> "Console":
    """Return what draws on stdout: as wide as the terminal is, and in a pipe as wide as it takes."""
    from rich.console import Console

    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if narrow else _WIDE_ENOUGH)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class _JsonLines:
    begun = False

    def __init__(self, columns: Sequence[str], styles: Mapping[str, str]) -> None:
        del columns, styles

    def row(self, fields: Fields) -> None:
        _say(line(fields))

    def end(self) -> None:
        return


class _Json:
    begun = False

    def __init__(self, columns: Sequence[str], styles: Mapping[str, str]) -> None:
        del columns, styles

    def row(self, fields: Fields) -> None:
        sys.stdout.write(",\n" if self.begun else "[\n")
        sys.stdout.write(indent(json.dumps(fields, indent=2, default=plain), "  "))
        self.begun = True

    def end(self) -> None:
        _say("\n]" if self.begun else "[]")


class _Lines:
    """Writes each record of CSV as a line. Its own `end` makes csv quote a cell with either half of it."""

    end = "\r\n"

    def write(self, record: str) -> None:
        sys.stdout.write(f"{record.removesuffix(self.end)}\n")


class _Csv:
    begun = False

    def __init__(self, columns: Sequence[str], styles: Mapping[str, str]) -> None:
        del styles
        self._writer = csv.DictWriter(_Lines(), columns, lineterminator=_Lines.end)
        self._writer.writerow({name: _csv_cell(name) for name in columns})

    def row(self, fields: Fields) -> None:
        self._writer.writerow({name: _csv_cell(value) for name, value in fields.items()})
        sys.stdout.flush()

    def end(self) -> None:
        return


def _csv_cell(value: object) -> object:
    if is_object(value) or is_array(value):
        return json.dumps(value, default=plain) if value else ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        text = f"'{value}" if _FORMULA.match(value) else value
        return shown(text) if sys.stdout.isatty() else text
    return json.dumps(value) if isinstance(value, bool) else value


class _Table:
    """Keeps the rows to the end: a table for the width there is, or blocks where a table would break words."""

    def __init__(self, columns: Sequence[str], styles: Mapping[str, str]) -> None:
        self._columns = columns
        self._styles = styles
        self._rows: list[Fields] = []

    @property
    def begun(self) -> bool:
        return bool(self._rows)

    def row(self, fields: Fields) -> None:
        self._rows.append(fields)

    def end(self) -> None:
        if not self._rows:
            note("There are none.")
            return
        from rich.measure import Measurement

        screen = console()
        table = self._table()
        unbroken = Measurement.get(screen, screen.options.update(width=_WIDE_ENOUGH), table).minimum
        if unbroken <= screen.width:
            screen.print(table)
            return
        for number, fields in enumerate(self._rows):
            screen.print(*([""] if number else []), _facts(fields, self._styles), sep="\n")

    def _table(self) -> "RenderableType":
        from rich import box
        from rich.table import Table

        told = [name for name in self._columns if any(_told(fields.get(name)) for fields in self._rows)]
        table = Table(box=box.SIMPLE_HEAD)
        for name in told:
            values = [fields.get(name) for fields in self._rows]
            numbers = all(type(value) in _NUMBERS for value in values)
            table.add_column(_heading(name, *values), justify="right" if numbers else "left")
        for fields in self._rows:
            table.add_row(*(_cell(fields.get(name), self._styles) for name in told))
        return table


def _facts(fields: Fields, styles: Mapping[str, str]) -> "RenderableType":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in _flat(fields):
        grid.add_row(_heading(name, value), _cell(value, styles))
    return grid


def _flat(fields: Fields, margin: str = "") -> Iterable[tuple[str, object]]:
    for name, value in fields.items():
        if is_object(value) and value:
            yield f"{margin}{name}", None
            yield from _flat(value, f"{margin}  ")
        elif _told(value):
            yield f"{margin}{name}", value


def _heading(name: str, *values: object) -> "Text":
    in_utc = any(isinstance(value, datetime) for value in values)
    return _cell(name.replace("_", " ") + (" (UTC)" if in_utc else ""), {})


def _told(value: object) -> bool:
    return value is not None and value not in ("", {}, [])


def _cell(value: object, styles: Mapping[str, str]) -> "Text":
    # Never a plain str: what the service or a customer wrote is neither markup nor a command to the terminal.
    from rich.text import Text

    text = printable(_text(value))
    return Text(text, style=styles.get(text, ""), overflow="fold")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return json.dumps(value, default=plain) if is_object(value) or is_array(value) else str(value)


_WRITERS: Final[Mapping[Format, Callable[[Sequence[str], Mapping[str, str]], Writer]]] = {
    "jsonl": _JsonLines,
    "json": _Json,
    "csv": _Csv,
    "table": _Table,
}
