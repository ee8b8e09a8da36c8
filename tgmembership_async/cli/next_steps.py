"""What to do next about grants, by status: a sentence each, with commands that can be pasted into a shell."""

from collections.abc import Iterator, Mapping
from typing import Final

from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import hint
from tgmembership_async.grants.model import GrantStatus

_STEPS: Final[Mapping[GrantStatus, tuple[str, tuple[str, ...]]]] = {
    GrantStatus.UNKNOWN: (
        "{count:,} unknown, not sent again until you decide; see what the service proves: {command}",
        ("grants", "reconcile"),
    ),
    GrantStatus.REFUSED: (
        "{count:,} refused; show the reasons: {command}",
        ("grants", "list", "--status", "refused"),
    ),
    GrantStatus.SENDING: ("{count:,} being sent now; look again: {command}", ("grants", "list", "--status", "sending")),
    GrantStatus.PLANNED: (
        "{count:,} planned, sent by the next `provision` of their file, or `Granter.run_planned`; list them: {command}",
        ("grants", "list", "--status", "planned"),
    ),
    GrantStatus.GRANTED: (
        "{count:,} granted and not marked as delivered; show the links: {command}",
        ("grants", "undelivered", "--show-links"),
    ),
}


def next_steps(counts: Mapping[GrantStatus, int], ledger: Place) -> Iterator[str]:
    """Yield a sentence for each status that somebody has to act on."""
    for status, (sentence, words) in _STEPS.items():
        if counts.get(status):
            yield sentence.format(count=counts[status], command=hint(*words, "--ledger", ledger))
