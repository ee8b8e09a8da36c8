"""Look up the rows of a file in a ledger, for `--dry-run` and `--result`. Nothing is created, locked or sent."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tgmembership_async.cli.credentials import account
from tgmembership_async.cli.grant_lines import CONFLICT
from tgmembership_async.cli.ledger_option import Place, is_there, opened
from tgmembership_async.cli.output import Writer
from tgmembership_async.errors import RefConflict
from tgmembership_async.grants import transitions
from tgmembership_async.grants.bot_ledger import BotLedger, ledger_of_bot
from tgmembership_async.grants.importing.members import FoundRow, MemberRow
from tgmembership_async.grants.ledger import Ledger, get_many
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.settings import service_of
from tgmembership_async.storage.sqlite.generations import Gap

COLUMNS: Final = ("line", "ref", "member_id", "plan_id", "note", "status", "would", "reason")
_TOGETHER: Final = 250  # refs in one look-up
_WOULD: Final = {
    None: "send",
    GrantStatus.PLANNED: "send",
    GrantStatus.SENDING: "wait",
    GrantStatus.GRANTED: "keep",
    GrantStatus.DELIVERED: "keep",
    GrantStatus.REFUSED: "stay refused",
    GrantStatus.UNKNOWN: "stay unknown",
    GrantStatus.ABANDONED: "stay abandoned",
}
_HOLD: Final = "hold"
_PHRASES: Final = {
    "send": "would be sent",
    "keep": "are granted already",
    "wait": "are being sent now",
    "stay refused": "stay refused",
    "stay unknown": "stay unknown until you decide",
    "stay abandoned": "stay abandoned",
    _HOLD: "would be held as unknown, because they were paid in the period that the restored ledger lacks",
    CONFLICT: "would not be sent, because their ref belongs to another plan or member",
    "repeat": "repeat an earlier row",
}


@asynccontextmanager
async def ledger_of(place: Place) -> AsyncGenerator[Ledger | None]:
    """Open the part of a ledger that belongs to the configured bot; yield None if there is no ledger yet."""
    there = (place.is_file() and place.stat().st_size > 0) if isinstance(place, Path) else is_there(place)
    if not there:
        yield None
        return
    bot = account()
    async with opened(place, owner=False) as rows:
        yield await ledger_of_bot(rows, service_of(bot), bot.bot_id, record=False)


async def looked_up(rows: Iterable[FoundRow], ledger: Ledger | None) -> AsyncGenerator[tuple[FoundRow, Grant | None]]:
    """Yield each row with the row of its ref in the ledger, which is asked for many refs at once."""
    left = iter(rows)
    while page := list(islice(left, _TOGETHER)):
        refs = [row.request.ref for row in page if isinstance(row, MemberRow)]
        found: Mapping[str, Grant] = {} if ledger is None else await get_many(ledger, refs)
        for row in page:
            yield row, found.get(row.request.ref) if isinstance(row, MemberRow) else None


def conflict_of(grant: Grant | None, request: GrantRequest) -> RefConflict | None:
    """Return the conflict if the row belongs to another plan or member than the request."""
    try:
        if grant is not None:
            transitions.same(grant, request)
    except RefConflict as conflict:
        return conflict
    return None


async def write_dry_run(place: Place, rows: Iterable[FoundRow], out: Writer) -> Counter[str]:
    """Write what a run would do for each member, and return the counts."""
    counts: Counter[str] = Counter()
    async with ledger_of(place) as ledger, aclosing(looked_up(rows, ledger)) as pairs:
        gaps = await _gaps(ledger)
        async for row, grant in pairs:
            if isinstance(row, MemberRow):
                fields = _row(row, grant, gaps)
                counts[fields["would"]] += 1
                out.row(fields)
    return counts


async def _gaps(ledger: Ledger | None) -> list[Gap]:
    """Return the gaps of a ledger in a file; a server has none."""
    whole = ledger.whole if isinstance(ledger, BotLedger) else ledger
    return await whole.gaps() if isinstance(whole, SqliteLedger) else []


def _row(row: MemberRow, grant: Grant | None, gaps: Sequence[Gap]) -> dict[str, Any]:
    conflict = conflict_of(grant, row.request)
    status = None if grant is None else grant.status
    paid_at = row.request.paid_at
    held = grant is None and paid_at is not None and any(paid_at in gap for gap in gaps)
    would = CONFLICT if conflict else "repeat" if row.first_line else _HOLD if held else _WOULD[status]
    error = conflict or (None if grant is None else grant.error)
    return {
        "line": row.line,
        "ref": row.request.ref,
        "member_id": row.request.member_id,
        "plan_id": row.request.plan_id,
        "note": row.request.note,
        "status": status,
        "would": would,
        "reason": f"line {row.first_line}" if would == "repeat" else None if error is None else str(error),
    }


def counts_in_words(counts: Counter[str]) -> str:
    """Return the counts in one sentence."""
    parts = (f"{counts[would]:,} {words}" for would, words in _PHRASES.items() if counts[would])
    return f"Nothing was sent. Of {counts.total():,} members, {', '.join(parts)}."
