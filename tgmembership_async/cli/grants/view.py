"""Print grants as tables, JSON or CSV."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tgmembership_async.cli.grant_lines import COLOURS, columns, fields_of, status_of, why
from tgmembership_async.cli.output import Format, note, resolved, write_one, writing
from tgmembership_async.grants.model import Attempt, DecisionMade, Grant, GrantStatus
from tgmembership_async.grants.reconciling import Finding
from tgmembership_async.values.models import Subscriber

if TYPE_CHECKING:
    from tgmembership_async.project.models import PaymentRequest

TERMINAL_LIMIT: Final = 100


async def show_grants(
    grants: AsyncIterator[Grant], form: Format, *, links: bool, limit: int | None = None
) -> Counter[GrantStatus]:
    """Write grants one by one or as a table, and count them; `limit` None is all, or TERMINAL_LIMIT in a table."""
    if resolved(form) != "table":
        counts: Counter[GrantStatus] = Counter()
        with writing(form, columns(links=links)) as out:
            async for grant in _first(grants, limit):
                counts[grant.status] += 1
                out.row(fields_of(grant, links=links))
        return counts
    limit = TERMINAL_LIMIT if limit is None else limit
    rows = [grant async for grant in _first(grants, limit + 1 if limit else None)]
    shown = rows[:limit] if limit else rows
    _table([for_people(grant, links=links) for grant in shown])
    if len(rows) > len(shown):
        note(f"Only the first {limit:,} are shown; --limit 0 shows all.")
    return Counter(grant.status for grant in shown)


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
        _table([for_people(grant, links=links)])
    else:
        write_one(form, fields_of(grant, links=links))


def show_history(
    grant: Grant, attempts: list[Attempt], decisions: list[DecisionMade], form: Format, *, links: bool
) -> None:
    """Write one grant with its attempts and decisions."""
    fields = fields_of(grant, links=links)
    history, decided = list(map(attempt_fields, attempts)), list(map(decision_fields, decisions))
    if resolved(form) != "table":
        write_one(form, fields | {"history": history, "decisions": decided})
        return
    write_one(form, fields, COLOURS)
    for rows in filter(None, (history, decided)):
        _table(rows)


def attempt_fields(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as a row."""
    return {
        "attempt": attempt.number,
        "began_at": attempt.began_at,
        "ended_at": attempt.ended_at,
        "status": attempt.status,
        "evidence": attempt.evidence,
    }


def decision_fields(made: DecisionMade) -> dict[str, Any]:
    """Return a decision as a row."""
    return {"decision": made.decision, "decided_at": made.decided_at, "reason": made.reason}


def show_findings(findings: Sequence[Finding], form: Format) -> None:
    """Write the result of reconciling each row; a table has TERMINAL_LIMIT of them."""
    if resolved(form) == "table":
        shown = findings[:TERMINAL_LIMIT]
        _table([for_people(finding.grant, links=False) | {"why": finding.why} for finding in shown])
        if len(findings) > len(shown):
            note(f"Only the first {TERMINAL_LIMIT:,} are shown; --format jsonl shows all.")
        return
    with writing(form, (*columns(links=False), "settled", "why", "seen")) as out:
        for finding in findings:
            seen = list(map(_seen, finding.seen))
            fields = fields_of(finding.grant, links=False)
            out.row(fields | {"settled": finding.settled, "why": finding.why, "seen": seen})


def _seen(found: "Subscriber | PaymentRequest") -> dict[str, Any]:
    if isinstance(found, Subscriber):
        return {"plan_id": found.plan_id, "started_at": found.started_at}
    return {
        "plan_id": found.plan_id,
        "payment_request_id": found.payment_request_id,
        "status": found.status,
        "created_at": found.created_at,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    with writing("table", tuple(rows[0]) if rows else (), COLOURS) as out:
        for row in rows:
            out.row(row)


def for_people(grant: Grant, *, links: bool) -> dict[str, Any]:
    """Return a grant as a row of a table: with its error shortened, without the advice that `show` prints."""
    key = None if grant.token is None else grant.token.best
    return {
        "ref": grant.ref,
        "member": grant.member_id,
        "plan": grant.plan_id,
        "status": status_of(grant),
        "sent": grant.attempts,
        "changed": grant.updated_at,
        "note": grant.note,
        **({"link": key} if links else {}),
        "why": why(grant.error),
    }
