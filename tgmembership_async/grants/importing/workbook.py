"""The rows of an Excel workbook, read in a stream: openpyxl, with the extra `xlsx`."""

import re
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile

from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install

if TYPE_CHECKING:
    from collections.abc import Generator

DIGITS: Final = 15
"""The digits of a number that Excel keeps."""
_AT_ONCE: Final = 256
_DAMAGED: Final = (BadZipFile, EOFError, KeyError, OSError, SyntaxError, TypeError, ValueError, zlib.error)
"""Errors that openpyxl raises for a damaged file: those of zipfile, of the XML parser (SyntaxError), and its own."""
_LEADING_ZEROS: Final = re.compile("00+")
"""A format of numbers such as 000000, which shows zeros that belong to a ref."""

_TAG: Final = r"<(?:\w+:)?"
_WITHOUT_VALUE: Final = re.compile(
    rf"{_TAG}mergeCell\b[^>]*?\bref=\"(?P<merged>[^\"]+)\""
    rf"|{_TAG}c\b(?![^>]*\bt=\"str\")[^>]*?\br=\"(?P<formula>[^\"]+)\"[^>]*>\s*{_TAG}f\b[^>]*(?:/>|>[^<]*</[^>]*>)\s*"
    rf"(?:{_TAG}v\s*/>|{_TAG}v>\s*</[^>]*>)?\s*</".encode()
)
"""In the XML of a sheet: merged cells, or a cell with a formula and no result. An empty text is a result."""
_MARKS: Final = (b"mergeCell ", b"<f", b":f")
"""Without these there is no match: searching for them takes far less time."""
_REASONS: Final = (
    "the formula in cell {} has no result: open the workbook in a spreadsheet program and save it, or enter the value",
    "the cells {} are merged, and only the first of them has the value: unmerge them, and fill in each",
)
_CHUNK: Final = 1 << 20
_LONGEST_CELL: Final = 1 << 16


def library() -> Any:
    """Return openpyxl. Raises UsageError that names the extra if it is not installed."""
    try:
        import openpyxl  # noqa: PLC0415 - an extra, and slow to load
    except ModuleNotFoundError:
        msg = f"Excel workbooks need an extra: {install('xlsx')}; or save the sheet as CSV"
        raise UsageError(msg) from None
    return openpyxl


@contextmanager
def _book(path: Path) -> "Generator[Any]":
    openpyxl = library()
    try:
        with path.open("rb") as file:  # openpyxl would refuse a path with another ending
            with warnings.catch_warnings(action="ignore"):  # such as that a chart was left out
                opened = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            with closing(opened) as book:
                yield book
    except UsageError:
        raise
    except _DAMAGED:
        msg = f"{path} is no Excel workbook, or damaged: save it again as .xlsx or as CSV"
        raise UsageError(msg) from None


def sheet_of(path: Path, named: str | None) -> str:
    """Return the sheet to read: the one that is named, or the only one that is visible and has cells."""
    with _book(path) as book:
        sheets: dict[str, Any] = {sheet.title: sheet for sheet in book.worksheets}
        if named is not None:
            if named not in sheets:
                msg = f"{path} has no sheet {named!r:.80}, but {', '.join(map(repr, sheets))}"
                raise UsageError(msg)
            return named
        filled = [
            title
            for title, sheet in sheets.items()
            if sheet.sheet_state == "visible" and any(map(_has_cells, _cells(sheet)))
        ]
        if len(filled) > 1:
            msg = f"{path} has several sheets: say which with --sheet: {', '.join(map(repr, filled))}"
            raise UsageError(msg)
        return (filled or list(sheets))[0]


def rows(path: Path, sheet: str | None) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the number and the cells of each row; a number that Excel may have rounded comes as it would show it."""
    with _book(path) as book:
        for number, cells in enumerate(_cells(book[sheet]), 1):
            yield number, [_exact(cell) for cell in cells]


def without_value(path: Path, sheet: str | None, columns: Collection[int], after: int) -> tuple[int, str] | None:
    """Return row and reason of the first cells that show a value which openpyxl does not return, or None.

    Only cells in these columns (indices) below the row `after` count.
    """
    from openpyxl.utils import range_boundaries  # noqa: PLC0415 - an extra, and slow to load

    with _book(path) as book, book[sheet]._get_source() as source:  # noqa: SLF001 - there is no public way to the XML
        end = b""
        while chunk := source.read(_CHUNK):
            text = end + chunk
            for found in _WITHOUT_VALUE.finditer(text) if any(map(text.__contains__, _MARKS)) else ():
                cells = (found["merged"] or found["formula"]).decode()
                bounds: Any = range_boundaries(cells)
                left, _, right, last = bounds
                if last > after and any(left <= column + 1 <= right for column in columns):
                    return last, _REASONS[found["merged"] is not None].format(cells)
            end = text[-_LONGEST_CELL:]
    return None


def _cells(sheet: Any) -> Iterator[Sequence[Any]]:
    sheet.reset_dimensions()  # the size in the file may be wrong
    rows = sheet.iter_rows()
    while some := _some_of(rows):
        yield from some


def _some_of(rows: Iterator[Sequence[Any]]) -> list[Sequence[Any]]:
    with warnings.catch_warnings(action="ignore"):  # a number that is no date becomes an error in its cell, too
        return list(islice(rows, _AT_ONCE))


def _has_cells(cells: Sequence[Any]) -> bool:
    return any(cell.value not in (None, "") for cell in cells)


def _exact(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if value != value or abs(value) >= 10**DIGITS:  # noqa: PLR0124 - not a number
        return f"{float(value):.14E}"
    if value != int(value):
        return repr(value)
    zeros = _LEADING_ZEROS.fullmatch(cell.number_format or "")
    return f"{int(value):0{len(zeros[0])}}" if zeros else int(value)
