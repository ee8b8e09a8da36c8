"""`--result FILE`: the caller's rows with the status of each grant, as CSV or as an Excel workbook.

The rows are read again from the file and joined with the ledger by ref, so memory stays flat, and the result of a run
that was interrupted has what is known. The file appears under its name only when it is whole, with mode 0600.
"""

import csv
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from tgmembership_async.cli.grant_lines import CONFLICT
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import cell_text, note, without_controls
from tgmembership_async.cli.provision.dry_run import conflict_of, ledger_of, looked_up
from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.grants.importing import workbook
from tgmembership_async.grants.importing.members import STATUS_COLUMN, InvalidRow, MemberRow, Members, SkippedRow
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import Grant

_STATUS, _LINK, _REASON = STATUS_COLUMN, "grant_link", "grant_reason"
_ENDINGS: Final = (".csv", ".xlsx")

result_option: Final = click.option(
    "--result",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.csv|FILE.xlsx",
    help="Write a copy of FILE with the columns grant_status and grant_reason, and with --show-links grant_link.",
)


def check_result(result: Path | None, members: Path) -> None:
    """Raise UsageError if a result cannot be written, before anything is sent."""
    if result is None:
        return
    if result.suffix.lower() not in _ENDINGS:
        msg = f"{result}: the result is a file .csv or .xlsx"
        raise UsageError(msg)
    if result.suffix.lower() == ".xlsx":
        workbook.library()
    if result.exists() and result.samefile(members):
        msg = f"{result} is the file of members: give the result a name of its own"
        raise UsageError(msg)
    if not os.access(result.parent, os.W_OK):
        msg = f"{result.parent} is not a writable folder"
        raise UsageError(msg)


async def write_result(result: Path | None, members: Members, place: Place, *, links: bool) -> None:
    """Write the result, if one is asked for: beside its place first, and then under its name at once."""
    if result is None:
        return
    unfinished = result.with_name(f".{result.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            write = _write_xlsx if result.suffix.lower() == ".xlsx" else _write_csv
            async with ledger_of(place) as ledger, aclosing(_rows(members, ledger, links=links)) as rows:
                await write(file, rows)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(result)
    except OSError as error:
        msg = f"{result} cannot be written: {error.strerror}; the grants are in the ledger, so run the command again"
        raise StorageError(msg) from None
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    note(f"Result: {result}")


async def _rows(members: Members, ledger: Ledger | None, *, links: bool) -> AsyncGenerator[Sequence[Any]]:
    headings = {key: name for key, name in members.headings.items() if name not in (_STATUS, _LINK, _REASON)}
    added = (_STATUS, _LINK, _REASON) if links else (_STATUS, _REASON)
    yield [*headings.values(), *added]
    async with aclosing(looked_up(members.unchecked_rows(), ledger)) as pairs:
        async for row, grant in pairs:
            match row:
                case MemberRow():
                    status, link, reason = _outcome(row, grant)
                case SkippedRow():
                    status, link, reason = "left out", "", row.reason
                case InvalidRow():
                    status, link, reason = "invalid", "", row.reason
            ours = (status, link, reason) if links else (status, reason)
            yield [*(row.fields.get(key) for key in headings), *ours]


def _outcome(row: MemberRow, grant: Grant | None) -> tuple[str, str, str]:
    conflict = conflict_of(grant, row.request)
    if conflict is not None:
        return CONFLICT, "", str(conflict)
    if grant is None:
        return "not sent", "", ""
    link = "" if grant.token is None else grant.token.link or grant.token.token or ""
    return grant.status.value, link, "" if grant.error is None else str(grant.error)


async def _write_csv(file: BinaryIO, rows: AsyncIterator[Sequence[Any]]) -> None:
    file.write(b"\xef\xbb\xbf")  # Excel takes CSV without it for the encoding of Windows
    table = csv.writer(_Encoded(file))
    async for row in rows:
        table.writerow([cell_text(_plain(cell)) for cell in row])


class _Encoded:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


async def _write_xlsx(file: BinaryIO, rows: AsyncIterator[Sequence[Any]]) -> None:
    openpyxl = workbook.library()
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("members")
    async for row in rows:
        sheet.append([_text_cell(openpyxl, sheet, cell) for cell in row])
    book.save(file)


def _text_cell(openpyxl: Any, sheet: Any, value: Any) -> Any:
    """Return a cell that Excel shows as it is: a text is no formula, and a long number is a text."""
    if isinstance(value, bool | datetime) or (isinstance(value, int) and abs(value) < 10**workbook.DIGITS):
        return value.replace(tzinfo=None) if isinstance(value, datetime) else value
    cell = openpyxl.cell.WriteOnlyCell(sheet, without_controls(_plain(value)))
    cell.data_type = "s"
    return cell


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
