"""`read_members`: dialects at random, bad rows with their lines, and files that nobody should have."""

import csv
import io
import json
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.errors import UsageError
from tgmembership_async.grants import GrantRequest, InvalidRow, MemberRow, Members, SkippedRow, read_members
from tgmembership_async.grants.importing.headers import FIELDS, SPELLINGS, squashed
from tgmembership_async.grants.importing.members import FoundRow, read_refs
from tgmembership_async.grants.importing.repeats import Repeats

# ruff: noqa: RUF001 - headings in other scripts

SAMPLE = Path(__file__).parents[3] / "examples" / "members.csv"
NO_ID = "member_id is not a positive number of up to 64 bits"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members") / "members"


def members(path: Path, content: str | bytes, plan_id: int | None = 7, **options: Any) -> Members:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_members(path, plan_id=plan_id, **options)


def read(path: Path, content: str | bytes, plan_id: int | None = 7, **options: Any) -> list[FoundRow]:
    return list(members(path, content, plan_id, **options).rows())


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(" '\",;|\t"), max_size=8)
refs = texts.map(lambda text: f"r{text}".replace("\t", "").strip())
ids = st.integers(1, 2**63 - 1)


@st.composite
def dialects(draw: st.DrawFn) -> tuple[bytes, list[GrantRequest]]:
    """Draw a file in a random dialect, and what it says."""
    delimiter = draw(st.sampled_from(",;\t|"))
    rows = [
        GrantRequest(ref, draw(ids), draw(ids), draw(texts).strip())
        for ref in draw(st.lists(refs, min_size=1, max_size=5, unique=True))
    ]
    names = draw(st.permutations([*FIELDS[:4], "Farbe", ""]))
    headings = [draw(st.sampled_from(sorted(SPELLINGS[name]))) if name in SPELLINGS else name for name in names]
    shown = [draw(st.sampled_from([str.title, str.upper, str.lower]))(heading) for heading in headings]
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    text = io.StringIO()
    table = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator=ending,
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    table.writerow(shown)
    for row in rows:
        if draw(st.booleans()):
            table.writerow([""] * len(names))
        table.writerow(["red" if name == "Farbe" else getattr(row, name) if name else "" for name in names])
    said = f"sep={delimiter}{ending}" if draw(st.booleans()) else ""
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return (said + text.getvalue()).encode(encoding), rows


@given(dialects())
def test_rows_in_any_dialect_are_read_as_they_were_written(
    path: Path, written: tuple[bytes, list[GrantRequest]]
) -> None:
    content, rows = written
    found = read(path, content, None)
    assert [row.request for row in found if isinstance(row, MemberRow)] == rows
    assert len(found) == len(rows)


@given(
    st.integers(1, 10**12), st.sampled_from([",", ".", " ", "'", "’", "\u00a0", "\u202f"]), st.sampled_from(["", "0"])
)
def test_a_grouped_number_is_the_number_or_refused(path: Path, number: int, separator: str, zeros: str) -> None:
    shown = f"{number:,}".replace(",", separator) + (("." if separator == "," else ",") + zeros if zeros else "")
    [row] = read(path, json.dumps({"ref": "a", "member_id": shown}))
    if isinstance(row, MemberRow):
        assert row.request.member_id == number
    else:
        assert isinstance(row, InvalidRow)
        assert "can be read as" in row.reason


@given(
    st.sampled_from([b"ref,member_id\n", b'{"ref": "a", "member_id": 1}\n', b"\xff\xfe", b""]),
    st.binary() | st.text(alphabet='{"ref": ,member_id}\n\r0123456789').map(lambda text: text.encode()),
)
def test_nothing_else_than_a_usage_error_is_raised_whatever_the_file(path: Path, head: bytes, data: bytes) -> None:
    try:
        found = read(path, head + data)
    except UsageError:
        return
    assert [one.line for one in found] == sorted(one.line for one in found)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,1", "2 values for 3 columns"),
        ("a,1,2,3", "4 values for 3 columns"),
        (",1,2", "ref is empty"),
        ('"a\nb",1,2', "ref must be your payment's own id, a printable str of 1 to 1,000 characters, not 'a\\nb'"),
        ("a,,2", "member_id is empty"),
        ("a,x,2", f"{NO_ID}: 'x'"),
        ("a,0,2", f"{NO_ID}: '0'"),
        ("a,1.5,2", f"{NO_ID}: '1.5'"),
        ("a,1_0,2", f"{NO_ID}: '1_0'"),
        ("a,\u0661,2", f"{NO_ID}: '\u0661'"),
        ("a,12.34.567,2", f"{NO_ID}: '12.34.567'"),
        (f"a,{2**63},2", f"{NO_ID}: '{2**63}'"),
        (
            "a,1,1E+09",
            "Excel has rounded this plan_id: '1E+09'. Export the file again with this column formatted as text",
        ),
        ("a,1,x", "plan_id is not a positive number of up to 64 bits: 'x'"),
        ("a,1,0", "plan_id is not a positive number of up to 64 bits: '0'"),
        ('a,"1"x,2', "this is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_the_others_are_read(path: Path, row: str, reason: str) -> None:
    before, found, after = read(path, f"ref,member_id,plan_id\ngood,1,1\n{row}\nalso good,{2**63 - 1},1\n")
    assert isinstance(before, MemberRow)
    assert isinstance(after, MemberRow)
    assert found == InvalidRow(3, reason)


@pytest.mark.parametrize("ref", ["12E5", "E+15", "pi_1E+15", "1.2E+15x", "12.3E+15", "'=x'"[:-1]])
def test_a_ref_that_only_looks_a_little_like_a_rounded_number_is_taken(path: Path, ref: str) -> None:
    [row] = read(path, f"ref,member_id\n{ref},1\n")
    assert isinstance(row, MemberRow)
    assert row.request.ref == ref.removeprefix("'")


@pytest.mark.parametrize(
    "error",
    [
        "#NV",
        "#WERT!",
        "#BEZUG!",
        "#NAME?",
        "#ZAHL!",
        "#¡REF!",
        "#¿NOMBRE?",
        "#N/D",
        "#N/D!",
        "#Н/Д",
        "#ССЫЛКА!",
        "#ДЕЛ/0!",
        "#VALEUR!",
        "#DĚLENÍ_NULOU!",
        "#YOK",
        "#SPILL!",
        "#CALC!",
        "#GETTING_DATA",
        "#ERROR!",
        "#BUSY!",
        "###",
        "#######",
        "Err:508",
        "Loading...",
    ],
)
def test_an_error_of_a_spreadsheet_in_any_language_is_no_ref(path: Path, error: str) -> None:
    """Each month's payment would have the same ref, and only the first would be granted."""
    assert read(path, f"ref;member_id\n{error};1\n") == [InvalidRow(2, f"ref is an error of the spreadsheet: {error}")]


@pytest.mark.parametrize("ref", ["#1042", "#A-7", "#1042!", "Error", "Err:7", "#"])
def test_a_ref_that_only_looks_a_little_like_an_error_is_taken(path: Path, ref: str) -> None:
    assert read(path, f"ref,member_id\n{ref},1\n") == [MemberRow(2, GrantRequest(ref, 7, 1))]


@pytest.mark.parametrize("ref", ["4711.0", "4711,00", "1.000"])
def test_a_ref_with_decimals_is_refused(path: Path, ref: str) -> None:
    """Another file, or a workbook, has the same payment as 4711."""
    reason = f"ref is a number with decimals, and would be another ref without them: {ref!r}."
    for content in (f"ref;member_id\n{ref};1\n", json.dumps({"ref": ref, "member_id": 1})):
        [row] = read(path, content)
        assert isinstance(row, InvalidRow)
        assert row.reason.startswith(reason)


@pytest.mark.parametrize("ref", ["1.23457e15", "1.23E17", "1,5E17", "1E+17"])
def test_a_ref_that_was_rounded_is_refused_however_it_is_written(path: Path, ref: str) -> None:
    [row] = read(path, f"ref;member_id\n{ref};1\n")
    assert isinstance(row, InvalidRow)
    assert row.reason.startswith(f"Excel has rounded this ref: {ref!r}")


@pytest.mark.parametrize("marked", ["'0042", '"=""0042"""', '="0042"'])
def test_a_mark_that_keeps_leading_zeros_is_no_part_of_a_ref(path: Path, marked: str) -> None:
    assert read(path, f"ref,member_id\n{marked},1\n") == [MemberRow(2, GrantRequest("0042", 7, 1))]


@pytest.mark.parametrize("text", ["", "\ufeff", "\n\n", ",,\n", "ref,member_id\n"])
def test_a_file_without_members_is_refused(path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"the file is empty|it has no members"):
        members(path, text).check()


def test_a_row_without_a_plan_uses_the_default_or_is_invalid(path: Path) -> None:
    assert read(path, "ref,member_id\na,1\n") == [MemberRow(2, GrantRequest("a", 7, 1))]
    reason = "no plan: set one in the column plan_id, or for all rows with --plan-id"
    assert read(path, "ref,member_id\na,1\n", None) == [InvalidRow(2, reason)]


@pytest.mark.parametrize("paid_at", ["1701121212345", "1764340200000", "20231128143", "45000"])
def test_digits_that_are_neither_a_day_nor_seconds_are_no_time(path: Path, paid_at: str) -> None:
    [row] = read(path, f"ref,member_id,paid_at\na,1,{paid_at}\n")
    assert isinstance(row, InvalidRow)
    assert row.reason.startswith(f"paid_at is no time that can be read in one way only: {paid_at!r}")


def test_an_open_quote_is_reported_where_it_opens(path: Path) -> None:
    [_, found] = read(path, 'ref,member_id\na,1\n"b,2\nc,3\n')
    assert found == InvalidRow(3, "this is not CSV: unexpected end of data")


@pytest.mark.parametrize(
    ("hidden", "line"),
    [
        ('a,1,"hello\nb,2,x\nc,3,"\n', 3),
        ('a,1,"hello\r\nb,2,"\r\n', 3),
        ('a,1,"5"" of\nrope\nb,2,x\nlast"\n', 4),
    ],
)
def test_a_row_that_a_quotation_mark_hides_is_reported(path: Path, hidden: str, line: int) -> None:
    [found, after] = read(path, f"ref,member_id,note\n{hidden}z,9,\n")
    assert isinstance(found, InvalidRow)
    assert found.reason.startswith(f"a quotation mark in 'note' hides line {line}, which looks like a row of its own")
    assert isinstance(after, MemberRow)


@pytest.mark.parametrize("note", ["two\nlines", "Dear Ada,\nthanks, and see you,\nBob", "a, b, c\nd, e, f", "1\n2,3"])
def test_a_note_of_several_lines_is_taken(path: Path, note: str) -> None:
    assert read(path, f'ref,member_id,note\na,1,"{note}"\n') == [MemberRow(2, GrantRequest("a", 7, 1, note))]


def test_a_text_that_ends_within_a_character_is_reported(path: Path) -> None:
    [row, found] = read(path, "ref,member_id\na,1\nb,2".encode("utf-16") + b"\x00")
    assert isinstance(row, MemberRow)
    assert isinstance(found, InvalidRow)
    assert found.reason == "this line is not UTF-16"


def test_a_json_line_of_great_depth_is_reported(path: Path) -> None:
    [found] = read(path, "[" * 100_000)
    assert isinstance(found, InvalidRow)
    assert found.reason.startswith("this is not JSON: ")


def test_iterating_checks_the_whole_file_before_it_yields(path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 rows are invalid\. line 3: member_id is empty"):
        next(iter(members(path, "ref,member_id\na,1\nb,\n")))
    found = members(path, "ref,member_id\na,1\nb,2\n")
    assert [request.ref for request in found] == [request.ref for request in found] == ["a", "b"]
    assert found.check() == 2


def test_a_file_that_changes_meanwhile_ends_the_iteration(path: Path) -> None:
    requests = iter(members(path, "ref,member_id\n" + "a,1\n" * 5_000))
    next(requests)
    path.write_text("ref,member_id\n" + "a,x\n" * 5_000)
    with pytest.raises(UsageError, match="changed while it was read; line"):
        list(requests)


def test_the_cells_of_a_row_are_kept_by_heading(path: Path) -> None:
    found = members(path, "ref,Farbe,member_id,Farbe,\na, rot ,1,blau,x\n")
    [row] = found.rows()
    assert row.fields == {"ref": "a", "Farbe": " rot ", "member_id": "1", "Farbe 4": "blau", "column 5": "x"}
    assert dict(found.headings) == {"ref": "ref", "Farbe": "Farbe", "member_id": "member_id", "Farbe 4": "Farbe"} | {
        "column 5": ""
    }


def test_refs_need_no_other_column(path: Path) -> None:
    path.write_text("Status;Payment ID\ngranted;a\n;\n;1E+20\n")
    assert list(read_refs(path)) == [
        (2, "a"),
        InvalidRow(4, "Excel has rounded this ref: '1E+20'. Export the file again with this column formatted as text"),
    ]


def test_a_ref_of_a_result_that_was_not_granted_yet_is_not_read(path: Path) -> None:
    path.write_text("ref,grant_status,grant_link\na,granted,https://t.me/+a\nb,unknown,\n")
    first, second = read_refs(path)
    assert first == (2, "a")
    assert isinstance(second, InvalidRow)
    assert second.reason.startswith("b is unknown in this file, without a link")


def test_each_spelling_belongs_to_one_field() -> None:
    spelt = [spelling for spellings in SPELLINGS.values() for spelling in spellings]
    assert len(spelt) == len(set(spelt))
    assert [squashed(heading) for heading in ("Télégram-ID", "ID Платежа", "telegram_id (metadata)", "№ 1")] == [
        "telegramid",
        squashed("idПлатежа"),
        "telegramid",
        "no1",
    ]


def test_a_workbook_without_the_extra_names_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl.Workbook().save(path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UsageError, match=r"run pip install '\.\[xlsx\]' in the clone"):
        read_members(path)


def test_zeros_that_only_the_format_of_a_cell_shows_belong_to_its_ref(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(["ref", "member_id"])
    sheet.append([42, 4200001])
    sheet["A2"].number_format = "000000"
    book.save(path)
    assert [request.ref for request in read_members(path, plan_id=1)] == ["000042"]


def workbook(path: Path, *rows: list[Any]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return book


def test_a_row_of_a_workbook_may_end_before_the_columns_of_an_export(path: Path) -> None:
    workbook(path, ["User ID", "Telegram ID", "Patron Status"], [1, 42, "Active patron"], [2, 43])
    assert list(read_members(path, plan_id=7).rows()) == [
        MemberRow(2, GrantRequest("patreon:1", 7, 42)),
        SkippedRow(3, "Patron Status is ''"),
    ]
    workbook(path, ["user id", "access hash", "group id"], [42, 1, 77], [43])
    assert list(read_members(path, plan_id=7).rows()) == [
        MemberRow(2, GrantRequest("telegram:77:42", 7, 42)),
        InvalidRow(3, "ref is empty"),
    ]


@pytest.mark.parametrize(
    ("merged", "line"), [("C2:C3", 3), ("B3:C3", 3), ("D1:E1", None), ("D2:D3", None), ("D1:E4", None)]
)
def test_merged_cells_in_a_column_that_is_read_are_refused(path: Path, merged: str, line: int | None) -> None:
    """The plan of the others would be that of --plan-id."""
    book = workbook(path, ["ref", "member_id", "plan_id", "Farbe"], ["a", 1, 2, "red"], ["b", 2, None])
    book.worksheets[0].merge_cells(merged)
    book.save(path)
    found = list(read_members(path, plan_id=7).rows())
    if line is None:
        assert not any(isinstance(row, InvalidRow) for row in found)
    else:
        reason = (
            f"the cells {merged} are merged, and only the first of them has the value: unmerge them, and fill in each"
        )
        assert found == [InvalidRow(line, reason)]


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        ('<c r="C2"><f>1+1</f><v/></c>', True),
        ('<c r="C2" s="0"><f>1+1</f><v></v></c>', True),
        ('<c r="C2"><f t="shared" si="0"/></c>', True),
        ('<c r="D2"><f>1+1</f><v/></c>', False),
        ('<c r="C2"><f>1+1</f><v>2</v></c>', False),
        ('<c r="C2" t="str"><f>""</f><v></v></c>', False),
        ('<c r="C2"/>', False),
    ],
)
def test_a_formula_without_a_result_is_refused(path: Path, cell: str, wrong: bool) -> None:  # noqa: FBT001 - a case
    whole, changed = io.BytesIO(), io.BytesIO()
    workbook(path, ["ref", "member_id", "plan_id", "Farbe"], ["a", 1, "=1+1"])
    whole.write(path.read_bytes())
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'<c r="C2"><f>1+1</f><v /></c>', cell.encode()))
    [found] = read(path, changed.getvalue())
    if wrong:
        assert isinstance(found, InvalidRow)
        assert found.reason.startswith("the formula in cell C2 has no result: open the workbook")
    else:
        assert isinstance(found, MemberRow)


def test_an_id_with_a_format_of_dates_is_an_invalid_row_and_no_warning(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(["ref", "member_id"])
    sheet.append(["a", 4200001])
    sheet["B2"].number_format = "yyyy-mm-dd"
    book.save(path)
    with pytest.raises(UsageError, match="line 2: member_id is an error of the spreadsheet: #VALUE!"):
        list(read_members(path, plan_id=1))


@pytest.mark.parametrize("damage", ["cut", "xl/workbook.xml", "xl/worksheets/sheet1.xml", "[Content_Types].xml"])
def test_a_damaged_workbook_is_refused(path: Path, damage: str) -> None:
    whole, damaged = io.BytesIO(), io.BytesIO()
    book = openpyxl.Workbook()
    book.worksheets[0].append(["ref", "member_id"])
    book.save(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[: len(content) // 2] if name == damage else content)
    content = damaged.getvalue()
    with pytest.raises(UsageError, match="is no Excel workbook, or damaged"):
        read(path, content[: len(content) // 2] if damage == "cut" else content)


def test_repeats_are_found_among_more_refs_than_are_kept_in_memory() -> None:
    with Repeats() as repeats:
        for number in range(2_000):
            assert repeats.first(GrantRequest(f"r{number}", 1, 1), number) is None
        assert repeats.first(GrantRequest("r7", 1, 1), 2_001) == (7, True)
        assert repeats.first(GrantRequest("r7", 1, 2), 2_002) == (7, False)


def test_memory_does_not_grow_with_the_rows(path: Path) -> None:
    def peak(rows: int) -> int:
        found = members(path, "ref,member_id\n" + "".join(f"r{number},{number + 1}\n" for number in range(rows)))
        tracemalloc.start()
        assert sum(1 for _ in found.rows()) == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4_000) < peak(1_000) + 500_000


def test_the_sample_is_a_thousand_good_members(path: Path) -> None:
    requests = list(members(path, SAMPLE.read_bytes()))
    assert len(requests) == 1000
    assert len({request.member_id for request in requests}) == len({request.ref for request in requests}) == 1000
