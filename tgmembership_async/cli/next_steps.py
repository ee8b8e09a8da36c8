"""Suggest the next step for grants by status: one sentence each, with commands for a shell."""

from collections.abc import Iterator, Mapping
from typing import Final

from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import hint
from tgmembership_async.grants.model import GrantStatus

_STEPS: Final[Mapping[GrantStatus, tuple[str, tuple[str, ...]]]] = {
    GrantStatus.UNKNOWN: (
        "Unknown outcomes: {count:,}. These grants are not sent again until you decide: {command}",
        ("grants", "reconcile"),
    ),
    GrantStatus.REFUSED: (
        "Refused: {count:,}. Show the reasons: {command}",
        ("grants", "list", "--status", "refused"),
    ),
    GrantStatus.SENDING: (
        "Being sent: {count:,}. Look again in a minute: {command}",
        ("grants", "list", "--status", "sending"),
    ),
    GrantStatus.PLANNED: (
        "Planned: {count:,}. `tgmembership provision` of their file sends them, or `Granter.run_planned`: {command}",
        ("grants", "list", "--status", "planned"),
    ),
    GrantStatus.GRANTED: (
        "Granted and not marked as delivered: {count:,}. Show the links: {command}",
        ("grants", "undelivered", "--show-links"),
    ),
}


def next_steps(counts: Mapping[GrantStatus, int], ledger: Place) -> Iterator[str]:
    """Yield a sentence for each status that requires an action."""
    for status, (sentence, words) in _STEPS.items():
        if counts.get(status):
            yield sentence.format(count=counts[status], command=hint(*words, "--ledger", ledger))
