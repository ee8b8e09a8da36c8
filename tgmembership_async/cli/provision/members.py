"""Read members from a file row by row, and report every invalid row with its line number."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.model import GrantRequest

_REQUIRED: Final = ("ref", "member_id")
_KNOWN: Final = (*_REQUIRED, "plan_id", "note")
_HEADER: Final = "ref,member_id[,plan_id][,note]"
_MAX_ID: Final = 2**63 - 1
_BROKEN: Final = re.compile("[\udc80-\udcff]")
_ROUNDED: Final = re.compile(r"[-+]?[0-9](?:[.,][0-9]+)?E[-+][0-9]{2,3}", re.IGNORECASE)
"""How spreadsheets write a long number that they have rounded to a few digits."""
_EXPORT_AGAIN: Final = "Export the file again with this column formatted as text"
_NOT_UTF8: Final = "this line is not UTF-8"


@frozen
class Row:
    """One valid row."""

    line: int
    request: GrantRequest


@frozen
class Problem:
    """The reason why a row is invalid."""

    line: int
    reason: str


Found = Row | Problem


def open_members(file: Path) -> TextIO:
    """Open a file for `read_members`: with or without BOM; invalid UTF-8 is kept for it to report."""
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def read_members(lines: Iterable[str], plan_id: int | None = None) -> Iterator[Found]:
    """Read CSV with the header `ref,member_id[,plan_id][,note]`, or JSON lines with these keys; nothing is raised.

    `plan_id` is for rows that name none. Columns may stand in any order, and empty lines are skipped. Memory stays
    flat: a ref that stands twice is for `without_conflicts` to find.
    """
    source = iter(lines)
    head: list[str] = []
    for line in source:
        head.append(line)
        if line.strip():
            break
    read = _from_json if head and head[-1].lstrip().startswith("{") else _from_csv
    return read(chain(head, source), plan_id)


def without_conflicts(rows: Iterable[Found]) -> Iterator[Found]:
    """Yield the rows, with a Problem for each whose ref stood for another plan or member before.

    It keeps two digests for each ref, however long refs are.
    """
    seen: dict[bytes, bytes] = {}
    for row in rows:
        if isinstance(row, Row):
            request = row.request
            wish = _digest(f"{request.plan_id} {request.member_id}") + row.line.to_bytes(8, "big")
            first = seen.setdefault(_digest(request.ref), wish)
            if first[:-8] != wish[:-8]:
                line = int.from_bytes(first[-8:], "big")
                yield Problem(row.line, f"ref {request.ref!r:.80} stands for another plan or member on line {line}")
                continue
        yield row


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _from_csv(lines: Iterable[str], plan_id: int | None) -> Iterator[Found]:
    records = _records(lines)
    columns = _columns(next(records, None))
    if isinstance(columns, Problem):
        yield columns
        return
    for record in records:
        if isinstance(record, Problem):
            yield record
        elif len(record.cells) != len(columns):
            yield Problem(record.line, f"{len(record.cells)} values for {len(columns)} columns")
        else:
            yield _row(record.line, dict(zip(columns, record.cells, strict=True)), plan_id)


@frozen
class _Record:
    """The cells of one record, and the number of its first line."""

    line: int
    cells: list[str]


def _records(lines: Iterable[str]) -> Iterator[_Record | Problem]:
    """Yield each record that is not empty, or the problem of one that cannot be parsed."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(line, f"this is not CSV: {error}")
            continue
        if any(_BROKEN.search(cell) for cell in cells):
            yield Problem(line, _NOT_UTF8)
        elif any(cells):
            yield _Record(line, cells)


def _columns(header: _Record | Problem | None) -> tuple[str, ...] | Problem:
    if not isinstance(header, _Record):
        return header or Problem(
            1, f"the file is empty; it must begin with the header {_HEADER}, or contain JSON lines"
        )
    columns = tuple(cell.lower() for cell in header.cells)
    strange = set(columns).difference(_KNOWN)
    if strange or not set(columns).issuperset(_REQUIRED) or len(set(columns)) < len(columns):
        return Problem(header.line, f"the header must be {_HEADER}, not {','.join(header.cells)[:80]!r}")
    return columns


def _from_json(lines: Iterable[str], plan_id: int | None) -> Iterator[Found]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if _BROKEN.search(line):
            yield Problem(number, _NOT_UTF8)
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Problem(number, f"this is not JSON: {error}")
            continue
        yield _keys_missing(number, fields) or _row(number, fields, plan_id)


def _keys_missing(line: int, fields: Any) -> Problem | None:
    if isinstance(fields, dict) and set(_REQUIRED) <= fields.keys() <= set(_KNOWN):
        return None
    return Problem(line, "each line must be an object with ref and member_id, and optionally plan_id and note")


def _row(line: int, fields: Mapping[str, Any], plan_id: int | None) -> Found:
    ref, note, member_id, named = (fields.get(name) for name in ("ref", "note", "member_id", "plan_id"))
    if not ref:
        return Problem(line, "ref is empty")
    for name, value in ("ref", ref), ("member_id", member_id), ("plan_id", named):
        if isinstance(value, str) and _ROUNDED.fullmatch(value):
            return Problem(line, f"Excel has rounded this {name}: {value!r:.42}. {_EXPORT_AGAIN}")
    for name, value in ("member_id", member_id), ("plan_id", named):
        if _id(value) is None and (name == "member_id" or value not in (None, "")):
            return Problem(line, f"{name} is not a positive number of up to 64 bits: {value!r:.42}")
    plan = _id(named) or plan_id
    if plan is None:
        return Problem(line, "no plan: set one in the column plan_id, or for all rows with --plan-id")
    try:
        return Row(line, GrantRequest(ref, plan, _id(member_id), "" if note is None else note))
    except UsageError as error:
        return Problem(line, str(error))


def _id(value: object) -> int | None:
    """Return the value as an id, or None if it is not a valid one."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_ID else None
