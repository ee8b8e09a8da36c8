"""Grants for people on a terminal, and for programs in a pipe."""

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from tgmembership_async.cli.lines import columns, fields_of, status_of
from tgmembership_async.cli.output import Format, console, note, resolved, write_one, writing
from tgmembership_async.grants.granter import Finding
from tgmembership_async.grants.model import Attempt, DecisionMade, Grant

FITS_A_TERMINAL: Final = 100
_WHY: Final = 80
COLOURS: Final = {
    "granted": "green",
    "delivered": "blue",
    "refused": "red",
    "unknown": "yellow",
    "sending": "magenta",
    "planned": "cyan",
    "abandoned": "dim",
}


async def show_grants(grants: AsyncIterator[Grant], form: Format, *, links: bool, limit: int | None = None) -> None:
    """Write grants, one by one or as a table; `limit` None is all, or what fits a terminal."""
    if resolved(form) != "table":
        with writing(form, columns(links=links)) as out:
            async for grant in _first(grants, limit):
                out.row(fields_of(grant, links=links))
        return
    limit = FITS_A_TERMINAL if limit is None else limit
    rows = [grant async for grant in _first(grants, limit + 1 if limit else None)]
    shown = rows[:limit] if limit else rows
    console().print(_table(shown, links=links))
    if len(shown) < len(rows):
        note(f"These are the first {limit:,}; --limit 0 shows all, and in a pipe there is no limit.")


async def _first(grants: AsyncIterator[Grant], limit: int | None) -> AsyncIterator[Grant]:
    count = 0
    async for grant in grants:
        count += 1
        yield grant
        if limit and count == limit:
            return


def show_one(grant: Grant, form: Format, *, links: bool) -> None:
    """Write one grant."""
    if resolved(form) == "table":
        console().print(_table([grant], links=links))
    else:
        write_one(form, fields_of(grant, links=links))


def show_history(
    grant: Grant, attempts: list[Attempt], decisions: list[DecisionMade], form: Format, *, links: bool
) -> None:
    """Write one grant with all that was done and decided about it."""
    if resolved(form) != "table":
        told = fields_of(grant, links=links)
        write_one(form, told | {"history": list(map(_tried, attempts)), "decisions": list(map(_decided, decisions))})
        return
    screen = console()
    facts = Table.grid(padding=(0, 2))
    for name, value in fields_of(grant, links=links).items():
        facts.add_row(name, _status(grant) if name == "status" else _text(value))
    screen.print(facts)
    tried = ((a.number, a.began_at, a.ended_at or "nobody saw it", a.status, a.evidence) for a in attempts)
    screen.print(_sheet(("attempt", "began (UTC)", "ended (UTC)", "as", "evidence"), tried))
    if decisions:
        made = ((decision.decision, decision.decided_at, decision.reason) for decision in decisions)
        screen.print(_sheet(("decision", "at (UTC)", "reason"), made))


def _tried(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "began_at": attempt.began_at,
        "ended_at": attempt.ended_at,
        "status": attempt.status,
        "evidence": attempt.evidence,
    }


def _decided(made: DecisionMade) -> dict[str, Any]:
    return {"decision": made.decision, "decided_at": made.decided_at, "reason": made.reason}


def show_findings(findings: Iterable[Finding], form: Format) -> None:
    """Write what reconciling found out about each row."""
    if resolved(form) == "table":
        rows = ((f.grant.ref, f.grant.member_id, f.grant.plan_id, f.grant.status, f.why) for f in findings)
        console().print(_sheet(("ref", "member", "plan", "status", "why"), rows))
        return
    with writing(form, (*columns(links=False), "settled", "why", "seen")) as out:
        for finding in findings:
            seen = [{"plan_id": one.plan_id, "started_at": one.started_at} for one in finding.seen]
            told = fields_of(finding.grant, links=False)
            out.row(told | {"settled": finding.settled, "why": finding.why, "seen": seen})


def _table(grants: Iterable[Grant], *, links: bool) -> Table:
    names = ("ref", "member", "plan", "status", "sent", "changed (UTC)", "note", *(("link",) if links else ()), "why")
    rows = (
        (
            grant.ref,
            grant.member_id,
            grant.plan_id,
            _status(grant),
            grant.attempts,
            grant.updated_at,
            grant.note,
            *((_key_of(grant),) if links else ()),
            _why(grant.error),
        )
        for grant in grants
    )
    return _sheet(names, rows)


def _key_of(grant: Grant) -> str | None:
    return None if grant.token is None else grant.token.link or grant.token.token


def _why(error: BaseException | None) -> str:
    """Return what went wrong, without the advice that `show` gives at length."""
    cause = getattr(error, "cause", None) or error
    text = str(cause.args[0]) if cause is not None and cause.args else ""
    return text if len(text) <= _WHY else f"{text[: _WHY - 1]}…"


def _sheet(names: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    table = Table(*names, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _status(grant: Grant) -> Text:
    status = status_of(grant)
    return Text(status, style=COLOURS.get(status, ""))


def _text(value: object) -> Text:
    # Never a plain str: what a customer wrote is no markup.
    if isinstance(value, Text):
        return value
    shown = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else "" if value is None else str(value)
    return Text(shown, overflow="fold")
