"""Write rows as tables, JSON or CSV: one writer for each `--format`.

JSON has money and other exact numbers as strings, so that no reader rounds them, and is UTF-8. A CSV cell has objects
and arrays as JSON, and a `'` before text that a spreadsheet would evaluate as a formula. Control characters in texts of
the service, in notes and in file names are escaped before they reach a terminal or a file.
"""

import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from decimal import Decimal
from shutil import get_terminal_size
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import click

from tgmembership_async.cli.grant_lines import json_text
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.structuring.objects import is_array, is_object

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# ruff: noqa: PLC0415 - importing rich takes 0.1 s, and only tables need it

F = TypeVar("F", bound=Callable[..., Any])
Fields = Mapping[str, Any]
Format = Literal["auto", "table", "json", "jsonl", "csv"]
_FORMATS: Final = ("auto", "table", "json", "jsonl", "csv")
_WIDE_ENOUGH: Final = 1_000
_LONGEST_NOTE: Final = 10_000
_NUMBERS: Final = (int, Decimal, type(None))
_FORMULA: Final = re.compile(r"[=@].|[+-](?![0-9.,]+$).", re.DOTALL)
_LENGTH_OF_A_TIME: Final = len("2026-11-20 12:00:00")
_COMMAND: Final = re.compile(r"(?<=: )tgmembership [^;]*$")
_ARGUMENT: Final = re.compile(r"(?:--?[a-z-]+ (?!-))?(?:'[^']*'|[^\s'])+")
"""An option with its value, or another argument, as `hint` quotes them."""
_GOES_ON: Final = " \\"
_UNBROKEN: Final = "\x00"
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _format_option(default: str, explanation: str) -> Callable[[F], F]:
    choice = click.Choice(_FORMATS)
    text = f"Output format; {explanation}."
    return click.option("--format", "form", type=choice, default=default, show_default=True, help=text)


format_option: Final = _format_option("auto", "auto is table on a terminal and jsonl in a pipe")
stream_option: Final = _format_option(
    "auto",
    "auto prints only failures on a terminal, and is jsonl in a pipe or with --show-links; jsonl and csv print each "
    "grant as soon as its outcome is durable",
)


class Writer(Protocol):
    """Writes rows that all have the same fields; `begun` is True after the first row."""

    @property
    def begun(self) -> bool:  # noqa: D102 - see the class
        ...

    def row(self, fields: Fields) -> None:
        """Write a row now, or keep it until `end`."""
        ...

    def end(self) -> None:
        """Write the rows that were kept and close the document."""
        ...


def resolved(form: Format) -> Format:
    """Return the format, with `auto` replaced according to stdout."""
    if form != "auto":
        return form
    return "table" if sys.stdout.isatty() else "jsonl"


def streaming(form: Format, columns: Sequence[str], *, links: bool) -> AbstractContextManager[Writer]:
    """Yield a writer for the rows of `stream_option`."""
    if form == "auto" and sys.stdout.isatty() and not links:
        return nullcontext(_Nothing())
    return writing("jsonl" if form == "auto" else form, columns)


@contextmanager
def writing(form: Format, columns: Sequence[str], styles: Mapping[str, str] | None = None) -> Generator[Writer]:
    """Yield a writer of rows on stdout; `styles` maps the text of a table's cell to its colour."""
    writer = _WRITERS[resolved(form)](columns, styles or {})
    try:
        yield writer
    except BaseException:
        if writer.begun:  # show the rows before the failure, and leave valid JSON
            writer.end()
        raise
    writer.end()


def write_one(form: Format, fields: Fields, styles: Mapping[str, str] | None = None) -> None:
    """Write a single object: as one field per line in a table, and as an object in JSON."""
    how = resolved(form)
    if how == "json":
        _say(json_text(fields, indent=2))
    elif how == "table":
        console().print(_facts(fields, styles or {}))
    else:
        with writing(how, tuple(fields)) as out:
            out.row(fields)


def note(sentence: str) -> None:
    """Print a sentence on stderr, with control characters escaped: one line, unless a terminal is too narrow for it."""
    click.echo(fitted(shown(sentence)), err=True)


def fitted(text: str) -> str:
    """Return a text for stderr; on a terminal, in lines that break no word.

    A command at its end that does not fit begins a line, and goes on after a backslash, so that it can still be pasted.
    """
    width = get_terminal_size().columns
    if not sys.stderr.isatty() or len(text) <= width:
        return text
    before, command = text, ""
    if os.name == "posix" and (found := _COMMAND.search(text)):
        before, command = text[: found.start()], found[0]
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    lines = wrap(before, width, **options)
    if command:
        units = [unit.replace(" ", _UNBROKEN) for unit in _ARGUMENT.findall(command)]
        parts = wrap(" ".join(units), width - len(_GOES_ON), subsequent_indent="    ", **options)
        lines.append(f"{_GOES_ON}\n".join(parts).replace(_UNBROKEN, " "))
    return "\n".join(lines)


def shown(text: str) -> str:
    """Return untrusted text as one line with control characters escaped."""
    return printable(text, _LONGEST_NOTE)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def hint(*words: object) -> str:
    """Return a `tgmembership` command line, quoted for a shell."""
    return shlex.join(["tgmembership", *map(str, words)])


def note_table(rows: Sequence[Fields], styles: Mapping[str, str] | None = None) -> None:
    """Print rows as a table on stderr."""
    table = _Table(tuple(rows[0]) if rows else (), styles or {}, stderr=True)
    for fields in rows:
        table.row(fields)
    if rows:
        table.end()


def console(*, stderr: bool = False) -> "Console":
    """Return a rich Console on stdout or stderr: as wide as the terminal, and unlimited in a pipe."""
    from rich.console import Console

    narrow = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, highlight=False, width=None if narrow else _WIDE_ENOUGH)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class _Nothing:
    """Writes nothing; what writes each row at once differs only in `row`."""

    begun = False

    def __init__(self, columns: Sequence[str] = (), styles: Mapping[str, str] | None = None) -> None:
        del columns, styles

    def row(self, fields: Fields) -> None:
        del fields

    def end(self) -> None:
        return


class _JsonLines(_Nothing):
    def row(self, fields: Fields) -> None:
        _say(json_text(fields))


class _Json(_Nothing):
    def row(self, fields: Fields) -> None:
        sys.stdout.write(",\n" if self.begun else "[\n")
        sys.stdout.write(indent(json_text(fields, indent=2), "  "))
        self.begun = True

    def end(self) -> None:
        _say("\n]" if self.begun else "[]")


class _Lines:
    """Writes CSV records as lines that end in LF. `end` is CRLF, so that csv quotes a cell with either character."""

    end = "\r\n"

    def write(self, record: str) -> None:
        sys.stdout.write(f"{record.removesuffix(self.end)}\n")


class _Csv(_Nothing):
    def __init__(self, columns: Sequence[str], styles: Mapping[str, str]) -> None:
        del styles
        self._writer = csv.DictWriter(_Lines(), columns, lineterminator=_Lines.end)
        self._writer.writerow({name: _csv_cell(name) for name in columns})

    def row(self, fields: Fields) -> None:
        self._writer.writerow({name: _csv_cell(value) for name, value in fields.items()})
        sys.stdout.flush()


def _csv_cell(value: object) -> object:
    if is_object(value) or is_array(value):
        return json_text(value) if value else ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return shown(cell_text(value)) if sys.stdout.isatty() else cell_text(value)
    return json.dumps(value) if isinstance(value, bool) else value


def cell_text(text: str) -> str:
    """Return a text for a cell of CSV: control characters escaped, and `'` before what would be a formula."""
    safe = without_controls(text)
    return f"'{safe}" if _FORMULA.match(safe) else safe


def without_controls(text: str) -> str:
    """Return a text with escapes for control characters and for those that change the direction of writing."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class _Table:
    """Keeps the rows until `end`, then prints a table, or one block per row if a table would break words."""

    def __init__(self, columns: Sequence[str], styles: Mapping[str, str], *, stderr: bool = False) -> None:
        self._columns = columns
        self._styles = styles
        self._stderr = stderr
        self._rows: list[Fields] = []

    @property
    def begun(self) -> bool:
        return bool(self._rows)

    def row(self, fields: Fields) -> None:
        self._rows.append(fields)

    def end(self) -> None:
        if not self._rows:
            note("No rows.")
            return
        from rich.measure import Measurement

        screen = console(stderr=self._stderr)
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

        filled = [name for name in self._columns if any(_has_text(fields.get(name)) for fields in self._rows)]
        table = Table(box=box.SIMPLE_HEAD)
        for name in filled:
            values = [fields.get(name) for fields in self._rows]
            numbers = all(type(value) in _NUMBERS for value in values)
            times = any(isinstance(value, datetime) for value in values)
            least = _LENGTH_OF_A_TIME if times else None
            table.add_column(_heading(name, *values), justify="right" if numbers else "left", min_width=least)
        for fields in self._rows:
            table.add_row(*(_cell(fields.get(name), self._styles) for name in filled))
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
        elif _has_text(value):
            yield f"{margin}{name}", value


def _heading(name: str, *values: object) -> "Text":
    in_utc = any(isinstance(value, datetime) for value in values)
    return _cell(name.replace("_", " ") + (" (UTC)" if in_utc else ""), {})


def _has_text(value: object) -> bool:
    return value is not None and value not in ("", {}, [])


def _cell(value: object, styles: Mapping[str, str]) -> "Text":
    # Never a plain str: rich would interpret markup in texts of the service or a customer.
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
    return json_text(value) if is_object(value) or is_array(value) else str(value)


_WRITERS: Final[Mapping[Format, Callable[[Sequence[str], Mapping[str, str]], Writer]]] = {
    "jsonl": _JsonLines,
    "json": _Json,
    "csv": _Csv,
    "table": _Table,
}
