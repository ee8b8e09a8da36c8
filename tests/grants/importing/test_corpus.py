"""Files as people have them: what comes out of each, row by row."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tgmembership_async.errors import UsageError
from tgmembership_async.grants import GrantRequest, InvalidRow, MemberRow, SkippedRow, read_members

# ruff: noqa: E501 - the lines that a user reads

FILES = Path(__file__).parent / "files"
AFTERNOON = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
_TEXT = "Export the file again with this column formatted as text"
_NO_ID = "is not a positive number of up to 64 bits"


def good(
    line: int, ref: str, member_id: int, plan_id: int = 7, note: str = "", at: datetime | None = None
) -> MemberRow:
    return MemberRow(line, GrantRequest(ref, plan_id, member_id, note, at))


CASES: dict[str, list[MemberRow | SkippedRow | InvalidRow]] = {
    "german_excel.csv": [
        good(2, "pi_1", 4200001, 2, "Grüße", AFTERNOON),
        good(3, "pi_2", 4200002),
        InvalidRow(5, f"Excel has rounded this id: '4,2E+09'. {_TEXT}"),
    ],
    "german_excel_ansi.csv": [
        good(2, "pi_1", 4200001, note="für Jörg"),
        InvalidRow(
            3, "ref 'pi_ü' depends on the encoding, which is not known: name it with --encoding, such as cp1252"
        ),
    ],
    "google_sheets.tsv": [good(2, "pi_1", 4200001, note="two\nlines"), good(4, "pi_2", 4200002)],
    "pipes.txt": [good(2, "A-1", 4200001, 1), good(3, "A-2", 4200002)],
    "sep_line.csv": [
        good(3, "0001", 4200001),
        InvalidRow(4, f"Excel has rounded this ref: '1.23457E+15'. {_TEXT}"),
    ],
    "unicode_text.txt": [good(2, "пл-1", 4200001, note="привет")],
    "utf16_without_bom.csv": [good(2, "pi_1", 4200001)],
    "russian.csv": [good(2, "1001", 4200001, 1, "пятый"), good(3, "1002", 4200002, 1)],
    "old_mac.csv": [good(2, "pi_1", 4200001), good(3, "pi_2", 4200002)],
    "quotes.csv": [good(2, 'pi "1"', 4200001, note="a, b; c"), good(3, "=2+5", 4200002)],
    "usernames.csv": [
        *(
            InvalidRow(
                line,
                f"member_id is not a number: {name!r}. It must be the Telegram user id, because a username can "
                "change hands",
            )
            for line, name in ((2, "@ada"), (3, "ada_lovelace"), (4, "https://t.me/ada"))
        ),
        InvalidRow(5, "member_id is negative, the id of a chat and not of a member: '-1001234567890'"),
        InvalidRow(6, "member_id is a phone number: '+49 170 1234567'. A member is named by the Telegram user id"),
        good(7, "pi_6", 4200006),
        good(8, "pi_7", 4200007),
    ],
    "two_readings.csv": [
        InvalidRow(2, f"member_id can be read as 42 or as 42000: '42,000'. {_TEXT}"),
        InvalidRow(
            3, "paid_at is no time that can be read in one way only: '11/12/2026'. Write it as 2026-11-28 14:30"
        ),
        InvalidRow(4, "member_id is an error of the spreadsheet: #N/A"),
        InvalidRow(5, "ref is an error of the spreadsheet: #REF!"),
    ],
    "two_columns.csv": [
        InvalidRow(1, "'order id' and 'payment id' could both be ref: say which with --column ref=HEADING")
    ],
    "nothing_known.csv": [
        InvalidRow(
            1,
            "no column is recognised as ref among 'name', 'email': begin the file with headings such as "
            "ref,member_id,plan_id,note, or name the column with --column ref=HEADING",
        )
    ],
    "cut_short.csv": [good(2, "pi_1", 4200001, note="ok"), InvalidRow(3, "2 values for 3 columns")],
    "conflict.csv": [
        good(2, "pi_1", 4200001),
        MemberRow(3, GrantRequest("pi_1", 7, 4200001), first_line=2),
        InvalidRow(4, "ref 'pi_1' stands for another plan or member on line 2"),
    ],
    "members.jsonl": [
        good(1, "pi_1", 4200001, 2, at=datetime(2026, 11, 27, 14, 30, tzinfo=timezone(timedelta(hours=1)))),
        good(3, "1002", 4200002),
        InvalidRow(4, f"Excel has rounded this id: '4.2E+09'. {_TEXT}"),
        InvalidRow(5, "this is not JSON: a key stands twice"),
        InvalidRow(6, 'each line must be an object, such as {"ref": "pi_3Nf", "member_id": 4200}'),
    ],
    "stripe_payments.csv": [
        good(2, "pi_1", 4200001, 2, at=AFTERNOON),
        SkippedRow(3, "Status is 'Failed'"),
        SkippedRow(4, "Status is 'Refunded'"),
        good(5, "ch_4", 4200004, at=AFTERNOON.replace(minute=33)),
    ],
    "stripe_2015.csv": [good(2, "ch_1", 4200001, at=AFTERNOON)],
    "stripe_without_metadata.csv": [
        InvalidRow(
            1,
            "this Stripe payments export has no member_id: it has Telegram ids only if your checkout stored them in "
            "the metadata of the payment, or name the column with --column member_id=HEADING",
        )
    ],
    "patreon_members.csv": [
        good(2, "patreon:70001", 4200001, at=datetime(2026, 11, 1, 10, tzinfo=UTC)),
        SkippedRow(3, "Patron Status is 'Former patron'"),
        SkippedRow(4, "Patron Status is ''"),
    ],
    "patreon_without_telegram.csv": [
        InvalidRow(
            1,
            "this Patreon members export has no member_id: its User ID is the id at Patreon, and not a Telegram id: "
            "add a column telegram_id, or name the column with --column member_id=HEADING",
        )
    ],
    "memberful_members.csv": [
        good(2, "memberful:80001", 4200001),
        SkippedRow(3, "Active is 'no'"),
        MemberRow(4, GrantRequest("memberful:80001", 7, 4200001), first_line=2),
        InvalidRow(5, "member_id is empty"),
    ],
    "memberful_without_telegram.csv": [
        InvalidRow(
            1,
            "this Memberful members export has no member_id: it has Telegram ids only if a custom field asks for "
            "them: add a column telegram_id, or name the column with --column member_id=HEADING",
        )
    ],
    "telegram_members.csv": [
        good(2, "telegram:1500000001:4200001", 4200001),
        good(3, "telegram:1500000001:4200002", 4200002),
    ],
    "latin_line.csv": [good(2, "pi_1", 4200001, note="für"), InvalidRow(3, "this line is not UTF-8")],
    "sales.xlsx": [
        good(2, "pi_1", 4200001, 2, at=AFTERNOON),
        good(3, "1002", 4200002),
        InvalidRow(5, f"member_id {_NO_ID}: '4200003.5'"),
        InvalidRow(6, f"Excel has rounded this id: '1.23456789012346E+18'. {_TEXT}"),
        InvalidRow(7, f"the spreadsheet has turned this ref into a date: 2026-11-27 00:00:00. {_TEXT}"),
        InvalidRow(8, f"Excel has rounded this ref: '1.23456789012346E+15'. {_TEXT}"),
        good(9, "pi_7", 4200007),
        InvalidRow(10, "member_id must be a text or a number, not True"),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_each_row_is_read_exactly_or_refused_with_its_reason(name: str) -> None:
    assert list(read_members(FILES / name, plan_id=7).rows()) == CASES[name]


@pytest.mark.parametrize(
    ("name", "options", "ref"),
    [
        ("german_excel_ansi.csv", {"encoding": "cp1252"}, "pi_ü"),
        ("two_columns.csv", {"columns": {"ref": "payment id"}}, "pi_1"),
        ("two_columns.csv", {"columns": {"ref": "Order ID"}}, "1"),
        ("two_columns.csv", {"columns": {"ref": "order id"}, "delimiter": ","}, "1"),
        ("two_sheets.xlsx", {"sheet": "B"}, "b"),
        ("sales.xlsx", {"columns": {"paid_at": "", "ref": "Name"}}, "Ada"),
        ("pipes.txt", {"delimiter": "|", "columns": {"plan_id": ""}}, "A-2"),
        ("google_sheets.tsv", {"delimiter": "tab"}, "pi_1"),
    ],
)
def test_what_is_said_about_a_file_is_taken(name: str, options: dict[str, Any], ref: str) -> None:
    rows = read_members(FILES / name, plan_id=7, **options).rows()
    assert ref in [row.request.ref for row in rows if isinstance(row, MemberRow)]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("excel_97.xls", {}, "is in the format of Excel 97: save it as .xlsx or as CSV"),
        ("two_sheets.xlsx", {}, "has several sheets: say which with --sheet: 'A', 'B'"),
        ("two_sheets.xlsx", {"sheet": "C"}, "has no sheet 'C', but 'A', 'B'"),
        ("pipes.txt", {"encoding": "klingon"}, "'klingon' is no encoding of text"),
        ("pipes.txt", {"encoding": "rot13"}, "'rot13' is no encoding of text"),
        ("pipes.txt", {"delimiter": "||"}, "a delimiter is one character, or tab, not '||'"),
        (
            "pipes.txt",
            {"columns": {"member": "tg_id"}},
            "columns are ref, member_id, plan_id, note, paid_at, not 'member'",
        ),
        ("none.csv", {}, "must be a regular file, because it is read twice"),
    ],
)
def test_what_cannot_be_read_at_all_raises(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        read_members(FILES / name, **options)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "german_excel.csv",
            (
                "german_excel.csv: CSV, separated by semicolons, UTF-8; ref from 'Zahlungs-ID'; member_id from 'Mitglied'; "
                "plan_id from 'Tarif'; note from 'Bemerkung'; paid_at from 'Bezahlt am'; ignored: 'Name'"
            ),
        ),
        (
            "stripe_payments.csv",
            (
                "stripe_payments.csv: Stripe payments export, CSV, separated by commas, UTF-8; ref from 'PaymentIntent ID' "
                "or 'id'; member_id from 'telegram_id (metadata)'; plan_id from 'plan_id (metadata)'; paid_at from "
                "'Created date (UTC)'; only rows whose Status is paid or succeeded; ignored: 'Amount', 'Amount Refunded', "
                "'Currency', 'Customer Email'"
            ),
        ),
        (
            "sales.xlsx",
            (
                "sales.xlsx: Excel workbook, sheet 'Sales'; ref from 'Payment ID'; member_id from 'Telegram ID'; plan_id "
                "from 'Plan'; paid_at from 'Paid at'; ignored: 'Name'"
            ),
        ),
        (
            "german_excel_ansi.csv",
            (
                "german_excel_ansi.csv: CSV, separated by semicolons, cp1252 (guessed); ref from 'Zahlung'; member_id from "
                "'Mitglied-ID'; note from 'Bemerkung'; plan_id is 7"
            ),
        ),
    ],
)
def test_one_line_tells_how_a_file_was_read(name: str, told: str) -> None:
    assert str(read_members(FILES / name, plan_id=7)) == told


def test_every_file_of_the_corpus_is_read_here() -> None:
    named = Path(__file__).read_text(encoding="utf-8")
    assert [file.name for file in FILES.glob("[!.]*") if f'"{file.name}"' not in named] == []
