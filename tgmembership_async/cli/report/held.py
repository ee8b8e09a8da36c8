"""The grants that wait for a decision, each with the commands that settle it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tgmembership_async.cli.grant_lines import why
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import hint
from tgmembership_async.cli.report.figures import Hold, PlanNames, Section
from tgmembership_async.grants.model import Decision, Grant, GrantStatus

MAX_HOLDS: Final = 100
_DECISIONS: Final[Mapping[Decision, tuple[str, str]]] = {
    "granted": ("The member has access", "the member has access"),
    "retry": ("Send it again", "the member has no access"),
    "abandon": ("Give it up", "given up"),
}
_ALL: Final[Mapping[GrantStatus, tuple[str, tuple[str, ...]]]] = {
    GrantStatus.UNKNOWN: ("Settle what the service proves", ("grants", "reconcile")),
    GrantStatus.REFUSED: ("List all that are refused", ("grants", "list", "--status", "refused")),
}


def hold(grant: Grant, kept: str, ledger: Place, names: PlanNames) -> Hold:
    """Return a held grant with the three commands that can settle it; `kept` is its ref as the whole ledger has it."""
    member = "no member given" if grant.member_id is None else f"member {grant.member_id}"
    about = f"{names.of(grant.plan_id)}, {member}, since {grant.updated_at:%Y-%m-%d %H:%M} UTC"
    commands = tuple((what, _command(kept, made, reason, ledger)) for made, (what, reason) in _DECISIONS.items())
    return Hold(grant.ref, grant.status.value, about, why(grant.error), commands)


def _command(ref: str, decision: Decision, reason: str, ledger: Place) -> str:
    words = ("--", ref, decision) if ref.startswith("-") else (ref, decision)
    return hint("grants", "resolve", "--ledger", ledger, "--reason", reason, *words)


def held(holds: Sequence[Hold], counts: Mapping[GrantStatus, int], ledger: Place) -> Iterator[Section]:
    """Yield the section of the held grants, the oldest first; nothing if no grant is held."""
    commands = tuple(
        (what, hint(*words, "--ledger", ledger)) for status, (what, words) in _ALL.items() if counts.get(status)
    )
    number = sum(counts.get(status, 0) for status in _ALL)
    if not number:
        return
    wait = "1 grant waits" if number == 1 else f"{number:,} grants wait"
    text = f"{wait} for your decision. Nothing is sent again until then."
    if number > len(holds):
        text += f" The list has the oldest {len(holds):,}."
    yield Section("Held grants", text, "held", holds=tuple(holds), commands=commands)
