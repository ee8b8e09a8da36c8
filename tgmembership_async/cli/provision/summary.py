"""The summary of a provisioning run: counts for the progress bar, sentences and the exit code. Pure."""

from collections.abc import Collection, Iterator
from typing import Final

from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.next_steps import next_steps
from tgmembership_async.cli.output import hint
from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.grants.provisioning import StopReason, Summary

_UNDONE: Final = frozenset({GrantStatus.PLANNED, GrantStatus.SENDING})


def exit_code(summary: Summary, statuses: Collection[str] = ()) -> Exit:
    """Return the highest exit code that applies; `statuses` are those of all rows, also of other workers' grants."""
    codes = {
        Exit.CREDENTIALS: summary.stopped is StopReason.CREDENTIALS,
        Exit.UNKNOWN: summary.unknown or GrantStatus.UNKNOWN in statuses,
        Exit.REFUSED: summary.refused or summary.conflicts or GrantStatus.REFUSED in statuses,
        Exit.FAILED: summary.planned or summary.stopped or not _UNDONE.isdisjoint(statuses),
    }
    return max((code for code, applies in codes.items() if applies), default=Exit.OK)


def progress(summary: Summary) -> tuple[int, dict[str, int]]:
    """Return the number of rows done, and their counts by outcome."""
    counts = {
        "granted": summary.granted + summary.already,
        "refused": summary.refused + summary.conflicts,
        "unknown": summary.unknown,
    }
    return sum(counts.values()) + summary.planned + summary.duplicates, counts


def sentences(summary: Summary, total: int, seconds: float, ledger: Place, *, links: bool) -> Iterator[str]:
    """Yield the sentences of the summary: the counts and the next steps."""
    done, _ = progress(summary)
    yield (
        f"{done:,} of {total:,} members in {seconds:.1f} s: {summary.granted:,} granted, {summary.already:,} granted "
        f"before, {summary.refused:,} refused, {summary.unknown:,} unknown, {summary.planned:,} still planned."
    )
    if summary.duplicates:
        yield f"{summary.duplicates:,} rows were already processed by this run or by another worker."
    if summary.conflicts:
        yield (
            f"{summary.conflicts:,} rows were not sent, because their ref belongs to another plan or member: "
            "give them refs of their own."
        )
    yield from next_steps({GrantStatus.UNKNOWN: summary.unknown, GrantStatus.REFUSED: summary.refused}, ledger)
    if summary.stopped:
        yield f"Ended early: {summary.stopped}."
    if summary.planned or done < total:
        yield "Run the same command again for the remaining members."
    if (summary.granted or summary.already) and not links:
        yield f"Show the links: {hint('grants', 'undelivered', '--show-links', '--ledger', ledger)}"
