"""Read the records of a file: detect format, encoding and separator, and yield its rows unchanged."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.importing import workbook
from tgmembership_async.protocol.structuring.objects import is_object

Cell = Any
"""A str, an int, a datetime, a bool or None; anything that JSON has."""
Kind = Literal["CSV", "JSON lines", "Excel workbook"]
DELIMITERS: Final = (",", ";", "\t", "|")
_TYPED: Final = {"\\t": "\t", "tab": "\t"}
_NAMES: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SAMPLE: Final = 65_536
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OLD_EXCEL: Final = bytes.fromhex("D0CF11E0A1B11AE1")
_BROKEN: Final = re.compile("[\ud800-\udfff]")
_SEPARATOR_LINE: Final = re.compile(r'\s*"?sep=(.)"?[ ,;\t|]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_OTHER: Final = re.compile("[^\x00-\x7f\ud800-\udfff]")


@frozen
class Record:
    """One row of the file: the number of its first line, the headings, and the cells."""

    line: int
    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@frozen
class Broken:
    """A row that cannot be parsed, and why."""

    line: int
    reason: str


@frozen
class Form:
    """The settings for reading a file. `guessed`: it is not Unicode, and no encoding was given."""

    kind: Kind
    encoding: str = "utf-8-sig"
    guessed: bool = False
    delimiter: str = ","
    sheet: str | None = None

    def __str__(self) -> str:
        if self.kind == "Excel workbook":
            return f"{self.kind}, sheet {self.sheet!r}"
        shown = self.encoding.removesuffix("-sig").upper().replace("CP", "cp") + (" (guessed)" if self.guessed else "")
        between = f", separated by {_NAMES.get(self.delimiter, self.delimiter)}" if self.kind == "CSV" else ""
        return f"{self.kind}{between}, {shown}"


def examine(
    path: Path,
    score: Callable[[Sequence[str]], int],
    *,
    delimiter: str | None,
    encoding: str | None,
    sheet: str | None,
) -> Form:
    """Return the form of a file; an option that was given precedes detection. `score` says how many headings are known.

    Raises UsageError if it cannot be read, or is no table.
    """
    if not path.is_file():
        msg = f"{path} must be a regular file, because it is read twice"
        raise UsageError(msg)
    try:
        with path.open("rb") as file:
            head = file.read(_SAMPLE)
        if head.startswith(b"PK\x03\x04"):
            return Form("Excel workbook", sheet=workbook.sheet_of(path, sheet))
        if head.startswith(_OLD_EXCEL):
            msg = f"{path} is in the format of Excel 97: save it as .xlsx or as CSV"
            raise UsageError(msg)
        chosen, guessed = (_checked(encoding), False) if encoding else _encoding(path, head)
        start = codecs.getincrementaldecoder(chosen)(_errors(chosen)).decode(head).lstrip("\ufeff")
    except UnicodeError:
        msg = f"{path} is not {encoding or 'text'}; name another --encoding"
        raise UsageError(msg) from None
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UsageError(msg) from None
    if delimiter is None and start.lstrip()[:1] in ("{", "["):
        return Form("JSON lines", chosen, guessed)
    return Form("CSV", chosen, guessed, _delimiter(start, score, delimiter))


def records(path: Path, form: Form) -> Iterator[Record | Broken]:
    """Yield the rows that are not empty, and those that cannot be parsed."""
    if form.kind == "Excel workbook":
        yield from _table(iter(workbook.rows(path, form.sheet)))
        return
    with _opened(path, form.encoding) as lines:
        read = _from_json(lines) if form.kind == "JSON lines" else _table(_from_csv(lines, form.delimiter))
        yield from _told(read, form)


def _told(rows: Iterator[Record | Broken], form: Form) -> Iterator[Record | Broken]:
    """Yield the rows; if the text ends in the middle of a character, the last row has its beginning."""
    line = 0
    try:
        for row in rows:
            line = row.line
            yield row
    except UnicodeError:
        yield Broken(line + 1, f"this line is not {form.encoding.removesuffix('-sig').upper()}")


def _checked(encoding: str) -> str:
    try:
        with io.TextIOWrapper(io.BytesIO(), encoding):
            name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        msg = f"{encoding!r:.42} is no encoding of text; such as utf-8, utf-16 or cp1252"
        raise UsageError(msg) from None
    return "utf-8-sig" if name == "utf-8" else name


def _encoding(path: Path, head: bytes) -> tuple[str, bool]:
    """Return the encoding, and whether it is a guess: the file has bytes that no UTF-8 has, and no UTF-8."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding, False
    start = head[:4096]
    if start[1::2].count(0) > len(start) / 6:
        return "utf-16-le", False
    if start[::2].count(0) > len(start) / 6:
        return "utf-16-be", False
    broken = False
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        while chunk := text.read(_SAMPLE):
            if chunk.isascii():
                continue
            if _OTHER.search(chunk):
                return "utf-8-sig", False  # single lines of it may be broken, and are reported
            broken = True
    return ("cp1252", True) if broken else ("utf-8-sig", False)


def _opened(path: Path, encoding: str) -> TextIO:
    return path.open(encoding=encoding, errors=_errors(encoding), newline="")


def _errors(encoding: str) -> str:
    return "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"


def _delimiter(start: str, score: Callable[[Sequence[str]], int], given: str | None) -> str:
    if given is not None:
        found = _TYPED.get(given, given)
        if len(found) != 1 or found in '"\r\n':
            msg = f"a delimiter is one character, or tab, not {given!r:.42}"
            raise UsageError(msg)
        return found
    separator_line = _SEPARATOR_LINE.match(start)
    if separator_line:
        return separator_line[1]
    heads = {each: _head(start, each) for each in DELIMITERS}
    return max(DELIMITERS, key=lambda each: (score(heads[each]), len(heads[each])))


def _head(start: str, delimiter: str) -> Sequence[str]:
    try:
        rows = csv.reader(start.splitlines(keepends=True), delimiter=delimiter)
        return next((row for row in rows if any(cell.strip(" ,;|\t") for cell in row)), list[str]())
    except csv.Error:
        return []


def _table(rows: Iterator[tuple[int, Sequence[Cell]] | Broken]) -> Iterator[Record | Broken]:
    """Yield the rows below the headings, which come as the first record, with themselves as cells."""
    names: tuple[str, ...] | None = None
    for row in rows:
        if isinstance(row, Broken):
            yield row
            if names is None:
                return
            continue
        line, cells = row
        if all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells):
            continue
        if names is None:
            names = tuple("" if cell is None else str(cell).strip() for cell in cells)
        yield Record(line, names, tuple(cells))


def _from_csv(lines: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]] | Broken]:
    before = 0
    first = lines.readline()
    if _SEPARATOR_LINE.match(first.lstrip("\ufeff")):
        before, first = 1, ""
    reader = csv.reader(_lines(first.lstrip("\ufeff"), lines), delimiter=delimiter, strict=True)
    while True:
        line = before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Broken(line, f"this is not CSV: {error}")
            continue
        if any(map(_BROKEN.search, cells)):
            yield Broken(line, _not_text(lines))
        else:
            yield line, cells


def _lines(first: str, rest: TextIO) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _not_text(lines: TextIO) -> str:
    return f"this line is not {lines.encoding.removesuffix('-sig').upper()}"


def _from_json(lines: TextIO) -> Iterator[Record | Broken]:
    for number, raw in enumerate(lines, 1):
        line = raw.strip("\ufeff \t\r\n")
        if not line:
            continue
        if _BROKEN.search(line):
            yield Broken(number, _not_text(lines))
            continue
        try:
            fields = json.loads(line, parse_float=str, parse_constant=str, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            yield Broken(number, f"this is not JSON: {error}")
            continue
        if is_object(fields):
            yield Record(number, tuple(fields), tuple(fields.values()))
        else:
            yield Broken(number, 'each line must be an object, such as {"ref": "pi_3Nf", "member_id": 4200}')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        msg = "a key stands twice"
        raise ValueError(msg)
    return fields


def first(path: Path, form: Form) -> Record | Broken | None:
    """Return the first record: the headings of a table, the first object of JSON lines, or None."""
    return next(islice(records(path, form), 1), None)
