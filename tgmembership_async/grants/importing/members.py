"""The members in a file: each row as a GrantRequest, or the reason why it is invalid."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen, mutable

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.importing import cells, workbook
from tgmembership_async.grants.importing.headers import FIELDS, Layout, layout, recognised
from tgmembership_async.grants.importing.repeats import Repeats
from tgmembership_async.grants.importing.sources import Broken, Form, Record, examine, first, records
from tgmembership_async.grants.model import GrantRequest, check_ref

_EMPTY: Final = "the file is empty; it must begin with headings such as ref,member_id,plan_id,note, or be JSON lines"
_SHOWN: Final = 5
_LAYOUTS: Final = 64


@frozen
class MemberRow:
    """A valid row. `line` is its line in the file, `first_line` where the same ref stood before, if it did.

    `fields` are the cells of the row by heading, as they are in the file.
    """

    line: int
    request: GrantRequest
    fields: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)
    first_line: int | None = None


@frozen
class SkippedRow:
    """A row that is left out for a reason: the export says that it is not paid."""

    line: int
    reason: str
    fields: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


@frozen
class InvalidRow:
    """A row that cannot be read, and why."""

    line: int
    reason: str
    fields: Mapping[str, Any] = field(factory=dict[str, Any], repr=False, eq=False)


STATUS_COLUMN: Final = "grant_status"
"""The heading of the status in a result, a copy of the file with what became of each row."""
_GRANTED: Final = "granted"
FoundRow = MemberRow | SkippedRow | InvalidRow


@mutable
class Table:
    """The records of a file with the layout of each."""

    path: Path
    form: Form
    columns: Mapping[str, str]
    needed: tuple[str, ...]
    _layouts: dict[tuple[str, ...], Layout | str] = field(factory=dict[tuple[str, ...], Layout | str], init=False)

    def head(self) -> Layout | InvalidRow:
        """Return the layout of the first record, or why there is none."""
        found = first(self.path, self.form)
        if found is None:
            return InvalidRow(1, _EMPTY)
        if isinstance(found, Broken):
            return InvalidRow(found.line, found.reason)
        where = self._layout(found.names)
        return where if isinstance(where, Layout) else InvalidRow(found.line, where)

    def rows(self) -> Iterator[tuple[Record, Layout] | InvalidRow]:
        """Yield the records below the headings with their layout, and an InvalidRow for each that cannot be read."""
        if self.form.kind != "JSON lines" and isinstance(head := self.head(), InvalidRow):
            yield head
            return
        found = records(self.path, self.form)
        if self.form.kind != "JSON lines":
            headings = next(found)
            if self.form.kind == "Excel workbook" and (lost := self._without_value(headings)):
                yield lost
                return
        any_row = False
        for record in found:
            any_row = True
            yield self._row(record)
        if not any_row and self.form.kind == "JSON lines":
            yield InvalidRow(1, _EMPTY)

    def _without_value(self, headings: Record | Broken) -> InvalidRow | None:
        if isinstance(headings, Broken) or isinstance(where := self._layout(headings.names), str):
            return None
        found = workbook.without_value(self.path, self.form.sheet, where.used, headings.line)
        return None if found is None else InvalidRow(*found)

    def _row(self, record: Record | Broken) -> tuple[Record, Layout] | InvalidRow:
        if isinstance(record, Broken):
            return InvalidRow(record.line, record.reason)
        where = self._layout(record.names)
        if isinstance(where, str):
            return InvalidRow(record.line, where, fields_of(record))
        width, names = len(record.cells), len(record.names)
        too_many = width > names and any(cell not in (None, "") for cell in record.cells[names:])
        if too_many or (width <= where.reach and self.form.kind == "CSV"):
            return InvalidRow(record.line, f"{width} values for {names} columns", fields_of(record))
        if self.form.kind == "CSV" and (lost := _row_within(record, where, self.form.delimiter)):
            return InvalidRow(record.line, lost, fields_of(record))
        return record, where

    def _layout(self, names: tuple[str, ...]) -> Layout | str:
        found = self._layouts.get(names)
        if found is None:
            try:
                found = layout(names, self.columns, self.needed)
            except UsageError as error:
                found = str(error)
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            self._layouts[names] = found
        return found


def _row_within(record: Record, where: Layout, delimiter: str) -> str | None:
    """Return the reason why a row of CSV is invalid if one of its cells has another row of the file within it.

    Two stray quotation marks make one cell of all that is between them.
    """
    line = record.line
    for place, cell in enumerate(record.cells):
        if "\n" not in cell and "\r" not in cell:
            continue
        _, *others = cell.splitlines()
        for number, other in enumerate(others, 1):
            parts = other.split(delimiter)
            ends_here = number == len(others) and len(parts) == place + 1
            if (ends_here or len(parts) == len(record.names)) and _names_member(parts, where):
                name = record.names[place] if place < len(record.names) else place + 1
                return (
                    f"a quotation mark in {name!r:.80} hides line {line + number}, which looks like a row of its own: "
                    "remove the mark, or double it within a quoted cell"
                )
        line += len(others)
    return None


def _names_member(parts: list[str], where: Layout) -> bool:
    found = [parts[place].strip() for place in where.places.get("member_id", ()) if place < len(parts)]
    with suppress(cells.CellError):
        return any(cells.number("member_id", each) for each in found)
    return False


@frozen
class Members:
    """The members of a file. Iterating yields a GrantRequest for each, in the order of the file, in constant memory.

    The whole file is checked before the first is yielded: UsageError that quotes the first invalid rows if there
    are any, or if there is no valid row. Each iteration reads the file again.
    """

    _table: Table
    _plan_id: int | None

    def __str__(self) -> str:
        """Return the recognised form and columns, in one line."""
        head = self._table.head()
        if isinstance(head, InvalidRow):
            return f"{self._table.path.name}: {self._table.form}"
        export = "" if head.export is None else f"{head.export.name}, "
        plan = "" if "plan_id" in head.places or self._plan_id is None else f"; plan_id is {self._plan_id}"
        return f"{self._table.path.name}: {export}{self._table.form}; {head}{plan}"

    @property
    def headings(self) -> Mapping[str, str]:
        """Return the headings by the keys of `fields`; of JSON lines, all keys, for which the file is read."""
        head = self._table.head()
        if self._table.form.kind == "JSON lines":
            return {key: key for row in self.unchecked_rows() for key in row.fields}
        names = head.names if isinstance(head, Layout) else ()
        return fields_of(Record(0, names, names))

    def rows(self) -> Iterator[FoundRow]:
        """Yield each row with its line, and nothing is raised for one that is invalid.

        A row whose ref stood for another plan or member before is invalid.
        """
        with Repeats() as repeats:
            for row in self.unchecked_rows():
                yield _compared(row, repeats) if isinstance(row, MemberRow) else row

    def unchecked_rows(self) -> Iterator[FoundRow]:
        """Yield each row like `rows`, but do not compare its ref with those before it."""
        read = partial(_row, plan_id=self._plan_id, guessed=self._table.form.guessed)
        for found in self._table.rows():
            yield found if isinstance(found, InvalidRow) else read(*found)

    def check(self) -> int:
        """Return the number of valid rows. Raises UsageError if a row is invalid, or none is valid."""
        counts: Counter[type[FoundRow]] = Counter()
        reasons: list[str] = []
        for row in self.rows():
            counts[type(row)] += 1
            if isinstance(row, InvalidRow) and len(reasons) < _SHOWN:
                reasons.append(f"line {row.line}: {row.reason}")
        if reasons or not counts[MemberRow]:
            found = "; ".join(reasons) or "it has no members"
            msg = f"{self._table.path}: {counts[InvalidRow]:,} rows are invalid. {found}"
            raise UsageError(msg)
        return counts[MemberRow]

    def __iter__(self) -> Iterator[GrantRequest]:
        self.check()
        for row in self.unchecked_rows():
            if isinstance(row, InvalidRow):
                msg = f"{self._table.path} changed while it was read; line {row.line}: {row.reason}"
                raise UsageError(msg)
            if isinstance(row, MemberRow):
                yield row.request


def read_members(
    path: str | PathLike[str],
    *,
    plan_id: int | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Members:
    """Return the members of a file: CSV, JSON lines, an Excel workbook (extra `xlsx`), or an export.

    Format, encoding, separator and columns are recognised; `str` of the result shows how. `plan_id` is the plan of rows
    that name none. `columns` maps `ref`, `member_id`, `plan_id`, `note` or `paid_at` to the heading of its column, or
    to "" if the file has none. A `paid_at` without a time zone is in UTC.

    Raises UsageError for a file that cannot be read, an option that does not fit, or a missing extra.
    """
    needed = ("ref", "member_id")
    table = _opened(path, needed, columns, delimiter=delimiter, encoding=encoding, sheet=sheet)
    return Members(table, plan_id)


def read_refs(
    path: str | PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
) -> Iterator[tuple[int, str] | InvalidRow]:
    """Yield the line and the ref of each row of a file that `read_members` could read; it needs no other column.

    A row of a result that was not granted when the result was written is an InvalidRow: its link is not in the file.
    """
    table = _opened(path, ("ref",), columns, delimiter=delimiter, encoding=encoding, sheet=sheet)
    for found in table.rows():
        if isinstance(found, InvalidRow):
            yield found
            continue
        record, where = found
        try:
            ref = check_ref(_ref(record, where, guessed=table.form.guessed))
            status = fields_of(record).get(STATUS_COLUMN, _GRANTED)
            if status == _GRANTED:
                yield record.line, ref
            else:
                reason = f"{ref} is {status} in this file, without a link: name the ref to mark it"
                yield InvalidRow(record.line, reason, fields_of(record))
        except (cells.CellError, UsageError) as error:
            yield InvalidRow(record.line, str(error), fields_of(record))


def _opened(
    path: str | PathLike[str],
    needed: tuple[str, ...],
    columns: Mapping[str, str] | None,
    *,
    delimiter: str | None,
    encoding: str | None,
    sheet: str | None,
) -> Table:
    chosen = dict(columns or {})
    if strange := chosen.keys() - {*FIELDS}:
        msg = f"columns are {', '.join(FIELDS)}, not {', '.join(sorted(strange))!r:.80}"
        raise UsageError(msg)
    file = Path(fspath(path))
    form = examine(file, partial(recognised, chosen=chosen), delimiter=delimiter, encoding=encoding, sheet=sheet)
    return Table(file, form, chosen, needed)


def fields_of(record: Record) -> dict[str, Any]:
    """Return the cells of a record by heading; a column without heading is called by its number."""
    fields: dict[str, Any] = {}
    for place, (name, cell) in enumerate(zip(record.names, record.cells, strict=False), 1):
        free = name if name and name not in fields else f"{name or 'column'} {place}"
        fields[free] = cell
    return fields


def _compared(row: MemberRow, repeats: Repeats) -> FoundRow:
    found = repeats.first(row.request, row.line)
    if found is None:
        return row
    line, same = found
    if same:
        return MemberRow(row.line, row.request, row.fields, line)
    reason = f"ref {row.request.ref!r:.80} stands for another plan or member on line {line}"
    return InvalidRow(row.line, reason, row.fields)


def _at(record: Record, place: int) -> Any:
    """Return a cell, or None: a workbook has no cells behind the last one of a row that is filled in."""
    return record.cells[place] if place < len(record.cells) else None


def _cell(record: Record, where: Layout, name: str) -> Any:
    for place in where.places.get(name, ()):
        cell = _at(record, place)
        if cell is not None and not (isinstance(cell, str) and not cell.strip()):
            return cell
    return None


def _ref(record: Record, where: Layout, *, guessed: bool) -> str:
    if "ref" in where.places or where.export is None:
        found = cells.ref(_cell(record, where, "ref"))
    else:
        parts = (cells.ref(_at(record, place)) for place in where.ref_parts)
        found = ":".join((where.export.service, *parts))
    if guessed and not found.isascii():
        msg = f"ref {found!r:.80} depends on the encoding, which is not known: name it with --encoding, such as cp1252"
        raise cells.CellError(msg)
    return found


def _row(record: Record, where: Layout, *, plan_id: int | None, guessed: bool) -> FoundRow:
    fields = fields_of(record)
    if where.export is not None and where.status is not None:
        status = cells.note(_at(record, where.status))
        if status.casefold() not in where.export.paid:
            return SkippedRow(record.line, f"{where.names[where.status]} is {status!r:.42}", fields)
    try:
        ref = _ref(record, where, guessed=guessed)
        member_id = cells.number("member_id", _cell(record, where, "member_id"))
        if member_id is None:
            return InvalidRow(record.line, "member_id is empty", fields)
        plan = cells.number("plan_id", _cell(record, where, "plan_id")) or plan_id
        if plan is None:
            reason = "no plan: set one in the column plan_id, or for all rows with --plan-id"
            return InvalidRow(record.line, reason, fields)
        note = cells.note(_cell(record, where, "note"))
        paid_at = cells.time(_cell(record, where, "paid_at"))
        return MemberRow(record.line, GrantRequest(ref, plan, member_id, note, paid_at), fields)
    except (cells.CellError, UsageError) as error:
        return InvalidRow(record.line, str(error), fields)
