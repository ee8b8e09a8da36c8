"""What a provisioning run came to: numbers for the bar, sentences for people, an exit code for scripts. Pure."""

from collections.abc import Collection, Iterator
from typing import Final

from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import hint
from tgmembership_async.grants.model import GrantStatus
from tgmembership_async.grants.provisioning import StopReason, Summary

_UNDONE: Final = frozenset({GrantStatus.PLANNED, GrantStatus.SENDING})


def exit_code(summary: Summary, told: Collection[str] = ()) -> Exit:
    """Return the highest exit code that applies; `told` are the statuses of all rows, also of what others granted."""
    codes = {
        Exit.CREDENTIALS: summary.stopped is StopReason.CREDENTIALS,
        Exit.UNKNOWN: summary.unknown or GrantStatus.UNKNOWN in told,
        Exit.REFUSED: summary.refused or summary.conflicts or GrantStatus.REFUSED in told,
        Exit.FAILED: summary.planned or summary.stopped or not _UNDONE.isdisjoint(told),
    }
    return max((code for code, applies in codes.items() if applies), default=Exit.OK)


def progress(summary: Summary) -> tuple[int, dict[str, int]]:
    """Return how many rows were looked at, and how many of them are what."""
    counts = {
        "granted": summary.granted + summary.already,
        "refused": summary.refused + summary.conflicts,
        "unknown": summary.unknown,
    }
    return sum(counts.values()) + summary.planned + summary.duplicates, counts


def sentences(summary: Summary, total: int, seconds: float, ledger: Place, *, links: bool) -> Iterator[str]:
    """Yield what a person should know at the end, and what to do next."""
    where = ("--ledger", ledger)
    done, _ = progress(summary)
    yield (
        f"{done:,} of {total:,} members in {seconds:.1f} s: {summary.granted:,} granted, {summary.already:,} granted "
        f"before, {summary.refused:,} refused, {summary.unknown:,} unknown, {summary.planned:,} still planned."
    )
    if summary.duplicates:
        yield f"{summary.duplicates:,} rows were carried out already, by this run or by another worker beside it."
    if summary.conflicts:
        yield (
            f"{summary.conflicts:,} rows name a ref that stands for another plan or member, and were left alone: "
            "give them refs of their own."
        )
    if summary.unknown:
        yield (
            f"{summary.unknown:,} may or may not have been granted. They are held until you decide: "
            f"{hint('grants', 'reconcile', *where)}, then grants list --status unknown and grants resolve."
        )
    if summary.refused:
        yield f"Why some were refused: {hint('grants', 'list', '--status', 'refused', *where)}"
    if summary.stopped:
        yield f"Ended early: {summary.stopped}."
    if summary.planned or done < total:
        yield "Run the same command again for the rest."
    if (summary.granted or summary.already) and not links:
        yield f"The links: {hint('grants', 'undelivered', '--show-links', *where)}"
