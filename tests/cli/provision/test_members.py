"""Reading members from a file: valid rows, and problems with their line numbers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.cli.provision.members import Found, Problem, Row, open_members, read_members, without_conflicts
from tgmembership_async.grants import GrantRequest

SAMPLE = Path(__file__).parents[3] / "examples" / "members.csv"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members") / "members"


def read(path: Path, content: str | bytes, plan_id: int | None = 7) -> list[Found]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with open_members(path) as lines:
        return list(read_members(lines, plan_id))


@pytest.mark.parametrize(
    "text",
    [
        "ref,member_id,plan_id\na,1,2\n",
        "\ufeffref,member_id,plan_id\na,1,2",
        "ref,member_id,plan_id\r\na,1,2\r\n",
        "ref,member_id,plan_id\ra,1,2\r",
        "Plan_ID, Member_ID ,REF\n2,1,a\n",
        'ref,member_id,plan_id\n\n" a ",1, 2 \n,,\n\n',
        '"ref","member_id","plan_id"\n"a","1","2"\n',
        '{"ref": "a", "member_id": 1, "plan_id": 2}',
        '\ufeff\n{"ref": "a", "member_id": "1", "plan_id": "2", "note": null}\r\n\r\n',
    ],
)
def test_a_file_may_come_as_spreadsheets_and_programs_write_it(path: Path, text: str) -> None:
    [row] = read(path, text)
    assert isinstance(row, Row)
    assert row.request == GrantRequest("a", 2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "ref,member_id\na,1\n",
        "ref,member_id,plan_id\na,1,\n",
        '\n{"ref": "a", "member_id": 1}',
        '\n{"ref": "a", "member_id": 1, "plan_id": null}',
    ],
)
def test_a_row_without_a_plan_uses_the_default_or_is_a_problem(path: Path, text: str) -> None:
    assert read(path, text) == [Row(2, GrantRequest("a", 7, 1))]
    assert read(path, text, None) == [
        Problem(2, "no plan: set one in the column plan_id, or for all rows with --plan-id")
    ]


def test_a_row_may_have_a_note(path: Path) -> None:
    assert read(path, "ref,note,member_id\na,chat 77,1\nb,,2\n") == [
        Row(2, GrantRequest("a", 7, 1, "chat 77")),
        Row(3, GrantRequest("b", 7, 2)),
    ]


def test_a_note_may_span_lines_and_the_next_row_keeps_its_number(path: Path) -> None:
    found = read(path, 'ref,member_id,note\na,1,"x\ny"\nc,2,\n')
    assert [row.line for row in found] == [2, 4]


_EXPORT = "Export the file again with this column formatted as text"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,1", "2 values for 3 columns"),
        ("a,1,2,3", "4 values for 3 columns"),
        (",1,2", "ref is empty"),
        ('"a\nb",1,2', "ref must be your payment's own id, a printable str of 1 to 1,000 characters, not 'a\\nb'"),
        ("a,,2", "member_id is not a positive number of up to 64 bits: ''"),
        ("a,x,2", "member_id is not a positive number of up to 64 bits: 'x'"),
        ("a,-1,2", "member_id is not a positive number of up to 64 bits: '-1'"),
        ("a,0,2", "member_id is not a positive number of up to 64 bits: '0'"),
        ("a,1.0,2", "member_id is not a positive number of up to 64 bits: '1.0'"),
        ("a,1_0,2", "member_id is not a positive number of up to 64 bits: '1_0'"),
        ("a,\u0661,2", "member_id is not a positive number of up to 64 bits: '\u0661'"),
        (f"a,{2**63},2", f"member_id is not a positive number of up to 64 bits: '{2**63}'"),
        ("1.23457E+15,1,2", f"Excel has rounded this ref: '1.23457E+15'. {_EXPORT}"),
        ("1E+20,1,2", f"Excel has rounded this ref: '1E+20'. {_EXPORT}"),
        ("a,4.2e+09,2", f"Excel has rounded this member_id: '4.2e+09'. {_EXPORT}"),
        ('a,"4,2E+09",2', f"Excel has rounded this member_id: '4,2E+09'. {_EXPORT}"),
        ("a,1,1E+09", f"Excel has rounded this plan_id: '1E+09'. {_EXPORT}"),
        ("a,1,x", "plan_id is not a positive number of up to 64 bits: 'x'"),
        ("a,1,0", "plan_id is not a positive number of up to 64 bits: '0'"),
        ('a,"1"x,2', "this is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_the_others_are_read(path: Path, row: str, reason: str) -> None:
    before, found, after = read(path, f"ref,member_id,plan_id\ngood,1,1\n{row}\nalso good,{2**63 - 1},1\n")
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert found == Problem(3, reason)


@pytest.mark.parametrize("ref", ["12E5", "E+15", "pi_1E+15", "1.2E+15x", "12.3E+15"])
def test_a_ref_that_only_looks_a_little_like_a_rounded_number_is_taken(path: Path, ref: str) -> None:
    assert read(path, f"ref,member_id\n{ref},1\n") == [Row(2, GrantRequest(ref, 7, 1))]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(1, 2)), max_size=8))
def test_only_the_first_of_what_contradicts_itself_is_good(wishes: list[tuple[str, int, int]]) -> None:
    rows = [Row(line, GrantRequest(ref, plan, member)) for line, (ref, plan, member) in enumerate(wishes, 2)]
    firsts: dict[str, Row] = {}
    for row, found in zip(rows, without_conflicts(rows), strict=True):
        first = firsts.setdefault(row.request.ref, row)
        if row.request == first.request:
            assert found is row
        else:
            assert isinstance(found, Problem)
            assert found.line == row.line
            assert found.reason.endswith(f"on line {first.line}")


_NO_OBJECT = "each line must be an object with ref and member_id, and optionally plan_id and note"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[]", _NO_OBJECT),
        ('{"ref": "a"}', _NO_OBJECT),
        ('{"ref": "a", "member_id": 1, "plan": 2}', _NO_OBJECT),
        ('{"ref": "a", "member_id": 1', "this is not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "this is not JSON: "),
        ('{"ref": "a", "member_id": true}', "member_id is not a positive number of up to 64 bits: True"),
        ('{"ref": "a", "member_id": 1.0}', "member_id is not a positive number of up to 64 bits: 1.0"),
        ('{"ref": "a", "member_id": null}', "member_id is not a positive number of up to 64 bits: None"),
        ('{"ref": 12, "member_id": 1}', "ref must be your payment's own id"),
        ('{"ref": "a", "member_id": 1, "note": 5}', "note must be a str of at most 1,000 characters"),
        ('{"ref": "a", "member_id": 1, "note": "\\ud800"}', "note has a lone surrogate"),
        ('{"ref": "\udcff", "member_id": 1}', "this line is not UTF-8"),
    ],
)
def test_a_bad_line_of_json_is_reported(path: Path, line: str, reason: str) -> None:
    text = f'{{"ref": "good", "member_id": 1}}\n{line}\n'
    _, found = read(path, text.encode(errors="surrogateescape"))
    assert isinstance(found, Problem)
    assert found.line == 2
    assert found.reason.startswith(reason)


def test_every_bad_row_is_reported_in_order(path: Path) -> None:
    found = read(path, b"ref,member_id\n\xff,1\na,x\nb,2\na,\nc,\xfe\n")
    assert [problem.line for problem in found if isinstance(problem, Problem)] == [2, 3, 5, 6]


def test_a_line_that_is_not_utf8_is_reported_once(path: Path) -> None:
    latin = b"ref,member_id\n" + "Müller,x\n".encode("latin-1")
    assert read(path, latin) == [Problem(2, "this line is not UTF-8")]


def test_an_open_quote_is_reported_where_it_opens(path: Path) -> None:
    [_, problem] = read(path, 'ref,member_id\na,1\n"b,2\nc,3\n')
    assert problem == Problem(3, "this is not CSV: unexpected end of data")


@pytest.mark.parametrize("text", ["", "\ufeff", "\n\n", ",,\n"])
def test_an_empty_file_is_a_problem(path: Path, text: str) -> None:
    [problem] = read(path, text)
    assert isinstance(problem, Problem)
    assert problem.line == 1
    assert "the file is empty" in problem.reason


@pytest.mark.parametrize(
    "header", ["a,b", "ref", "ref,member_id,name", "ref,ref,member_id", "ref;member_id", "import-1,42"]
)
def test_a_wrong_header_is_the_one_problem(path: Path, header: str) -> None:
    reason = f"the header must be ref,member_id[,plan_id][,note], not {header!r}"
    assert read(path, f"\n{header}\na,x\n") == [Problem(2, reason)]


def test_a_header_that_is_not_csv_is_the_one_problem(path: Path) -> None:
    assert read(path, '"ref"x,member_id\na,1\n') == [Problem(1, "this is not CSV: ',' expected after '\"'")]


def test_utf16_is_reported_from_the_first_line(path: Path) -> None:
    assert read(path, "ref,member_id\na,1\n".encode("utf-16"))[0] == Problem(1, "this line is not UTF-8")


@given(
    st.sampled_from([b"ref,member_id\n", b'{"ref": "a", "member_id": 1}\n', b""]),
    st.binary() | st.text(alphabet='{"ref": ,member_id}\n\r0123456789').map(lambda text: text.encode()),
)
def test_nothing_is_raised_whatever_the_file(path: Path, head: bytes, data: bytes) -> None:
    found = read(path, head + data)
    assert [one.line for one in found] == sorted(one.line for one in found)


def test_rows_come_before_the_file_is_read_to_its_end() -> None:
    lines = iter(["ref,member_id\n", "a,1\n"])
    rows = read_members(lines, 1)
    assert isinstance(next(rows), Row)


def test_the_sample_is_a_thousand_good_members(path: Path) -> None:
    rows = [row for row in read(path, SAMPLE.read_bytes()) if isinstance(row, Row)]
    assert len(rows) == 1000
    assert len({row.request.member_id for row in rows}) == len({row.request.ref for row in rows}) == 1000
