"""The options that say how a file of members is read, and the file itself, which may be stdin."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

import click

from tgmembership_async.grants.importing.headers import FIELDS

F = TypeVar("F", bound=Callable[..., Any])
STDIN: Final = Path("-")
members_path: Final = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


class Reading(TypedDict):
    """The options about the file; the arguments of `read_members`."""

    columns: dict[str, str]
    delimiter: str | None
    encoding: str | None
    sheet: str | None


def reading_options(command: F) -> F:
    """Give a command the options of reading a file, as its argument `reading`."""

    @wraps(command)
    def collected(
        *, column: dict[str, str], delimiter: str | None, encoding: str | None, sheet: str | None, **rest: Any
    ) -> Any:
        reading = Reading(columns=column, delimiter=delimiter, encoding=encoding, sheet=sheet)
        return command(reading=reading, **rest)

    options = [
        click.option(
            "--column",
            metavar="FIELD=HEADING",
            multiple=True,
            callback=_columns,
            help=f"Heading of the column with {', '.join(FIELDS[:-1])} or {FIELDS[-1]}, if it is not recognised, for "
            "example member_id=Telegram-ID. An empty HEADING means that there is no such column. Repeatable.",
        ),
        click.option("--delimiter", help="Separator of CSV: one character, or `tab`.  [default: detected]"),
        click.option("--encoding", help="Text encoding, for example cp1252.  [default: detected]"),
        click.option("--sheet", help="Name of the sheet of an Excel workbook.  [default: the only sheet with cells]"),
    ]
    found: Any = collected
    for option in reversed(options):
        found = option(found)
    return found  # type: ignore[no-any-return]  # as the options leave it


def _columns(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for value in values:
        name, equals, heading = value.partition("=")
        if not equals or name not in FIELDS or name in chosen:
            msg = f"{value!r}: write each of {', '.join(FIELDS)} once, as in member_id=Telegram-ID"
            raise click.BadParameter(msg, ctx, param)
        chosen[name] = heading.strip()
    return chosen


@contextmanager
def named(file: Path) -> Generator[Path]:
    """Yield the file; for `-` a private copy of stdin, because the file is read twice."""
    if file != STDIN:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="tgmembership-") as folder:
        copy = Path(folder, "stdin")
        with copy.open("wb") as target:
            shutil.copyfileobj(sys.stdin.buffer, target)
        yield copy
