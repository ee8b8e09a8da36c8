"""The rows of an Excel workbook, read in a stream: openpyxl, with the extra `xlsx`."""

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile

from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install

if TYPE_CHECKING:
    from collections.abc import Generator

DIGITS: Final = 15
"""The digits of a number that Excel keeps."""
_DAMAGED: Final = (BadZipFile, EOFError, KeyError, OSError, SyntaxError, TypeError, ValueError, zlib.error)
"""Errors that openpyxl raises for a damaged file: those of zipfile, of the XML parser (SyntaxError), and its own."""
_LEADING_ZEROS: Final = re.compile("00+")
"""A format of numbers such as 000000, which shows zeros that belong to a ref."""


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
        with (
            path.open("rb") as file,  # openpyxl would refuse a path with another ending
            closing(openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)) as book,
        ):
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


def _cells(sheet: Any) -> Iterator[Sequence[Any]]:
    sheet.reset_dimensions()  # the size in the file may be wrong
    return sheet.iter_rows()  # type: ignore[no-any-return]


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
