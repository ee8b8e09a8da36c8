"""The value of one cell: read exactly, or refused with the reason."""

import re
from datetime import UTC, datetime
from typing import Final

_MAX_ID: Final = 2**63 - 1
_ROUNDED_TEXT: Final = re.compile(r"[-+]?[0-9](?:[.,][0-9]+E[-+]?|E[-+])[0-9]{2,3}", re.IGNORECASE)
"""A long number that a spreadsheet, or a float, has rounded to a few digits."""
_ROUNDED_NUMBER: Final = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?E[-+]?[0-9]{1,3}", re.IGNORECASE)
_EXPORT_AGAIN: Final = "Export the file again with this column formatted as text"
_SPREADSHEET_ERROR: Final = re.compile(
    r"#[¡¿]?[^\W\d_][\w/ ]*[!?]"  # #REF!, #DIV/0!, #¿NOMBRE?, #ССЫЛКА!
    r"|#[^\W\d_]{1,3}/[^\W\d_]{1,3}"  # #N/A, #N/D
    r"|#(?:NV|YOK|HIÁNYZIK|NENÍ_K_DISPOZICI|NEDOSTUPNÝ|GETTING_DATA|##+)"
    r"|(?:Err|Erreur|Fehler) ?: ?[0-9]{3}|Loading\.\.\.",
    re.IGNORECASE,
)
"""An error as Excel, LibreOffice and Google Sheets write it, in any language."""
_GROUPED: Final = re.compile(r"([0-9]{1,3}(?:([.,'\u2019 \u00a0\u202f])[0-9]{3})(?:\2[0-9]{3})*)(?:(?!\2)[.,]0+)?")
_PLAIN: Final = re.compile(r"[1-9][0-9]{0,17}")
_WHOLE: Final = re.compile(r"([0-9]+)(?:[.,]0+)?")
_NOT_A_DIGIT: Final = re.compile("[^0-9]")
_LINKED: Final = re.compile(r"(?:user|tg://user\?id=)([0-9]{1,19})", re.IGNORECASE)
_USERNAME: Final = re.compile(r"@\w+|(?:https?://)?t\.me/\S+|[a-z]\w{3,31}", re.IGNORECASE)
_DAY_FIRST: Final = re.compile(
    r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:,? +([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?"
)
_SECONDS: Final = re.compile(r"[0-9]{10}")
_DIGITS_OF_NO_TIME: Final = re.compile(r"(?![0-9]{8}$)[0-9]+")
"""Digits that are neither a day nor seconds; `fromisoformat` takes milliseconds for a time in the year 1701."""
_MARKED_AS_TEXT: Final = re.compile(r"""'([=+\-@0-9].*)|="([^"]*)\"""", re.DOTALL)
"""A text that a spreadsheet should not take for a formula or a number: '=x, '0042 or ="0042"."""
_WITH_DECIMALS: Final = re.compile(r"[0-9]+[.,]0+")


class CellError(ValueError):
    """The reason why a cell cannot be read."""


def text(name: str, value: object) -> str:
    """Return a cell as text without white space around it, and without a mark that it is a text."""
    if isinstance(value, datetime):
        msg = f"the spreadsheet has turned this {name} into a date: {value}. {_EXPORT_AGAIN}"
        raise CellError(msg)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        msg = f"{name} must be a text or a number, not {value!r:.42}"
        raise CellError(msg)
    found = "" if value is None else str(value).strip()
    if marked := _MARKED_AS_TEXT.fullmatch(found):
        found = marked[marked.lastindex or 0].strip()
    if _SPREADSHEET_ERROR.fullmatch(found):
        msg = f"{name} is an error of the spreadsheet: {found}"
        raise CellError(msg)
    return found


def ref(value: object) -> str:
    """Return the ref of a cell; a number that a spreadsheet has rounded, or shows with decimals, is refused."""
    found = text("ref", value)
    if not found:
        msg = "ref is empty"
        raise CellError(msg)
    if _ROUNDED_TEXT.fullmatch(found):
        raise _rounded(name="ref", found=found)
    if _WITH_DECIMALS.fullmatch(found):
        msg = f"ref is a number with decimals, and would be another ref without them: {found!r:.42}. {_EXPORT_AGAIN}"
        raise CellError(msg)
    return found


def number(name: str, value: object) -> int | None:
    """Return an id, or None for an empty cell. `4200003.0` and `4,200,003` are the number that they show."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return int(value)  # nearly every cell
    found = text(name, value).removeprefix("'")
    if not found:
        return None
    linked = _LINKED.fullmatch(found) if name == "member_id" else None
    readings = _readings(linked[1] if linked else found)
    if len(readings) > 1:
        lower, higher = sorted(readings)
        msg = f"{name} can be read as {lower} or as {higher}: {found!r:.42}. {_EXPORT_AGAIN}"
        raise CellError(msg)
    if not readings or not 0 < (one := readings.pop()) <= _MAX_ID:
        raise _no_id(name, found)
    return one


def _readings(found: str) -> set[int]:
    if not found.isascii() and not _GROUPED.fullmatch(found):
        return set()
    grouped, whole = _GROUPED.fullmatch(found), _WHOLE.fullmatch(found)
    digits = [_NOT_A_DIGIT.sub("", match[1]) for match in (grouped, whole) if match is not None]
    return {int(one) for one in digits if len(one) <= len(str(_MAX_ID))}


def _no_id(name: str, found: str) -> CellError:
    if _ROUNDED_NUMBER.fullmatch(found):
        return _rounded(name, found)
    if name == "member_id":
        if re.fullmatch(r"-[0-9]+", found):
            return CellError(f"member_id is negative, the id of a chat and not of a member: {found!r:.42}")
        if re.fullmatch(r"\+[0-9 ()/-]+", found):
            return CellError(f"member_id is a phone number: {found!r:.42}. A member is named by the Telegram user id")
        if _USERNAME.fullmatch(found):
            return CellError(
                f"member_id is not a number: {found!r:.42}. It must be the Telegram user id, because a username can "
                "change hands"
            )
    return CellError(f"{name} is not a positive number of up to 64 bits: {found!r:.42}")


def _rounded(name: str, found: str) -> CellError:
    kind = "id" if name == "member_id" else name
    return CellError(f"Excel has rounded this {kind}: {found!r:.42}. {_EXPORT_AGAIN}")


def note(value: object) -> str:
    """Return the note of a cell."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return "" if value is None else str(value).strip()


def time(value: object) -> datetime | None:
    """Return a time, or None for an empty cell. A time without a zone is in UTC, a day without a time its beginning."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    found = text("paid_at", value).removesuffix(" UTC")
    if not found:
        return None
    try:
        if _SECONDS.fullmatch(found):
            return datetime.fromtimestamp(int(found), UTC)
        if day_first := _DAY_FIRST.fullmatch(found):
            day, month, year, hour, minute, second = (int(part or 0) for part in day_first.groups())
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        read = datetime.fromisoformat("" if _DIGITS_OF_NO_TIME.fullmatch(found) else found)
    except ValueError:
        msg = f"paid_at is no time that can be read in one way only: {found!r:.42}. Write it as 2026-11-28 14:30"
        raise CellError(msg) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)
