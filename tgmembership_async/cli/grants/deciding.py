"""`tgmembership grants resolve` and `reconcile`: decide about one held grant, many, or what the service proves."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TextIO, get_args

import click
from attrs import frozen

from tgmembership_async.cli.credentials import client, project_id
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import COLOURS, columns, fields_of
from tgmembership_async.cli.grant_options import concurrency_option
from tgmembership_async.cli.grants.opening import (
    each,
    grants_ledger,
    recover_dead_owner,
    since_option,
    with_ledger,
)
from tgmembership_async.cli.grants.view import for_people, show_findings, show_one
from tgmembership_async.cli.help_pages import example
from tgmembership_async.cli.ledger_option import Place, check_there
from tgmembership_async.cli.output import (
    Format,
    console,
    format_option,
    hint,
    note,
    note_table,
    streaming,
)
from tgmembership_async.cli.problems import Problems
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import DECIDED_FROM, Decision, Grant, GrantStatus, check_decision
from tgmembership_async.grants.reconciling import Finding
from tgmembership_async.protocol.endpoints import check_plan_id
from tgmembership_async.values.models import AccessToken

_DECISIONS: Final = get_args(Decision)
_SHOWN: Final = 10
_EPILOG: Final = """
\b
Decisions:
  granted  the customer has access; store the token or link with --token-file
  retry    the next run sends the grant again; if the first attempt took effect, the customer gets a second token
  abandon  no access is granted for this ref, now or later; also for a planned grant

\b
Examples:
  tgmembership grants resolve pi_3Nf granted --reason "customer is in the chat"
  tgmembership grants resolve --status unknown --since 24h retry --reason outage
  tgmembership grants resolve --status refused --match blocked abandon --yes --reason refunded
"""


@frozen
class Wanted:
    """The filter of the grants to decide about, if no ref is given."""

    status: Sequence[str]
    plan_id: int | str | None
    since: datetime | None
    match: str | None

    @property
    def given(self) -> bool:
        """Tell whether any filter was given."""
        return bool(self.status or self.plan_id or self.since or self.match)

    def includes(self, grant: Grant) -> bool:
        """Tell whether the filter selects a row whose status and time it selects."""
        text = "\n".join((grant.ref, grant.note, str(grant.error or ""))).casefold()
        return self.plan_id in (None, grant.plan_id) and (self.match is None or self.match.casefold() in text)


def _plan_id(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return the number of a bot's plan, or the UUID of a project's plan."""
    if value is None:
        return None
    return check_plan_id(int(value) if value.isascii() and value.isdecimal() else value)


@click.command("resolve", epilog=_EPILOG)
@click.argument("words", nargs=-1, metavar=f"[REF] {'|'.join(_DECISIONS)}")
@click.option(
    "--status",
    type=click.Choice(sorted(map(str, DECIDED_FROM["abandon"]))),
    multiple=True,
    help="Resolve all grants with this status, after a preview; repeatable.",
)
@click.option("--plan-id", metavar="ID", callback=_plan_id, help="With --status: only grants of this plan.")
@since_option
@click.option("--match", metavar="TEXT", help="With --status: only grants whose ref, note or error contains TEXT.")
@grants_ledger
@click.option("--reason", required=True, help="Reason, stored with the decision.")
@click.option("--token-file", type=click.File(encoding="utf-8"), help="File with the token or link, - for stdin.")
@click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")
@format_option
def resolve(
    *,
    words: tuple[str, ...],
    status: tuple[str, ...],
    plan_id: int | str | None,
    since: datetime | None,
    match: str | None,
    ledger: Place,
    reason: str,
    token_file: TextIO | None,
    yes: bool,
    form: Format,
) -> None:
    """Resolve the unknown or refused grant of REF, or abandon a planned one.

    Without REF, resolve all grants with a --status. A preview on stderr shows how many there are, by plan, and the
    first of them; then the command asks for a confirmation. Each grant is reported, and one that cannot be resolved
    stops no other. The decision is stored with its time and reason.
    """
    *refs, decision = words or ("",)
    wanted = Wanted(status, plan_id, since, match)
    checked = _checked(refs, decision, wanted)
    if token_file is not None and (checked != "granted" or not refs):
        msg = "--token-file requires a REF and the decision granted"
        raise UsageError(msg)
    token = None if token_file is None else _token(token_file.read())
    recover_dead_owner(ledger)
    if refs:
        show_one(with_ledger(ledger, lambda rows: rows.decide(refs[0], checked, token, reason)), form, links=False)
        decided, failed = 1, 0
    else:
        decided, failed = _resolve_all(ledger, wanted, checked, reason, form, yes=yes)
    if checked == "retry" and decided:
        note("The next `tgmembership provision`, `Granter.grant` or `Granter.run_planned` sends the grant again.")
    if failed:
        raise SystemExit(Exit.FAILED)


def _checked(refs: Sequence[str], decision: str, wanted: Wanted) -> Decision:
    if decision not in _DECISIONS:
        msg = f"the last argument is the decision: {', '.join(_DECISIONS[:-1])} or {_DECISIONS[-1]}"
        raise click.UsageError(msg)
    if len(refs) > 1:
        msg = (
            f"only one REF at a time, not {len(refs)}; to resolve many, use --status with --match, --plan-id or --since"
        )
        raise click.UsageError(msg)
    if bool(refs) == wanted.given or bool(refs) == bool(wanted.status):
        msg = "name either a REF, or a --status, which --plan-id, --since and --match narrow down"
        raise click.UsageError(msg)
    checked = check_decision(decision)
    wrong = [status for status in wanted.status if status not in DECIDED_FROM[checked]]
    if wrong:
        msg = f"a {wrong[0]} grant can only be abandoned"
        raise click.UsageError(msg)
    return checked


def _resolve_all(
    ledger: Place, wanted: Wanted, decision: Decision, reason: str, form: Format, *, yes: bool
) -> tuple[int, int]:
    """Preview, confirm and resolve; return how many grants were resolved, and how many could not be."""
    refs = with_ledger(ledger, lambda rows: _preview(rows, wanted, decision))
    if not refs:
        return 0, 0
    if not yes:
        if not sys.stdin.isatty():
            msg = f"nothing was decided: add --yes to decide {decision!r} about these {len(refs):,} grants"
            raise UsageError(msg)
        click.confirm(f"Decide {decision!r} about {len(refs):,} grants?", abort=True, err=True)
    problems = Problems()

    async def decide(rows: Ledger) -> None:
        with streaming(form, columns(links=False), links=False) as out, Bar(console(stderr=True), len(refs), ()) as bar:
            done = 0
            async for ref, end in each(refs, lambda ref: rows.decide(ref, decision, None, reason)):
                done += 1
                bar.show(done, {})
                if isinstance(end, TGMembershipError):
                    problems.failed(ref, end)
                else:
                    out.row(fields_of(end, links=False))

    with_ledger(ledger, decide)
    problems.show()
    decided = len(refs) - problems.total
    note(f"Decided {decision!r} about {decided:,} of {len(refs):,} grants.")
    return decided, problems.total


async def _preview(rows: Ledger, wanted: Wanted, decision: Decision) -> list[str]:
    """Show which grants a decision would be about, and return their refs."""
    refs: list[str] = []
    first: list[Grant] = []
    plans: Counter[int | str] = Counter()
    async for grant in rows.grants(list(map(GrantStatus, wanted.status)), wanted.since):
        if wanted.includes(grant):
            refs.append(grant.ref)
            plans[grant.plan_id] += 1
            first += [grant] if len(first) < _SHOWN else []
    note_table([for_people(grant, links=False) for grant in first], COLOURS)
    by_plan = ", ".join(f"{count:,} of plan {plan_id}" for plan_id, count in plans.most_common())
    more = f" The first {_SHOWN} are shown." if len(refs) > _SHOWN else ""
    note(f"{len(refs):,} grants to decide {decision!r} about{by_plan and ': '}{by_plan}.{more}")
    return refs


@click.command("reconcile", epilog=example("grants reconcile --ledger grants.db"))
@grants_ledger
@concurrency_option("requests")
@format_option
def reconcile(*, ledger: Place, concurrency: int, form: Format) -> None:
    """Check unknown grants against the service's subscribers, or a project's payment requests.

    An unknown grant becomes granted if the member has a subscription to the same plan that began at least five minutes
    after the attempt, since clocks may be wrong. The opposite cannot be proved: an unused link is not visible in the
    service. All other unknown grants stay unchanged and are listed with the subscriptions found, or with the reason
    why the request failed. With --project, an unknown payment request becomes granted if the list has exactly one for
    the same user and plan that no other row has, created during the attempt or in the five minutes after it.
    Credentials are read from TGMEMBERSHIP_BOT_ID, and
    TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE. Exit code: 0 if no grant is unknown, else 4.
    """
    check_there(ledger)
    tg = client(max_connections=concurrency)
    recover_dead_owner(ledger)
    findings: list[Finding] = []

    async def ask(rows: Ledger) -> None:
        nonlocal findings
        async with Granter(tg, rows) as granter:
            held = [grant.member_id async for grant in granter.grants(GrantStatus.UNKNOWN)]
            _announce(len(held), len(set(held) - {None}))
            with Bar(console(stderr=True), len(held), ("granted", "unknown")) as bar:
                counts: Counter[str] = Counter()

                def show(finding: Finding) -> None:
                    findings.append(finding)
                    counts[finding.grant.status] += 1
                    bar.show(len(findings), counts)

                findings = await granter.reconcile(concurrency=concurrency, on_finding=show)

    try:
        with_ledger(ledger, ask)
    finally:
        show_findings(findings, form)
    _conclude(findings, ledger)


def _announce(held: int, members: int) -> None:
    """Print which requests follow and what they can prove."""
    if held:
        note(
            f"{held:,} grants are unknown; the service is asked about {members:,} members. A subscription to the plan "
            "that began after the attempt proves a grant; without one nothing is proved, because an unused link does "
            "not show."
            if project_id() is None
            else f"{held:,} payment requests are unknown; the service is asked for all payment requests."
        )


def _conclude(findings: Sequence[Finding], ledger: Place) -> None:
    problems = Problems()
    left = [finding for finding in findings if not finding.settled]
    for finding in left:
        problems.add(finding.grant.ref, finding.grant.status, finding.why)
    problems.show()
    settled = len(findings) - len(left)
    note(f"{len(findings):,} grants were unknown: {settled:,} are now granted, {len(left):,} are still unknown.")
    if left:
        for decision, meaning in (("retry", "to send them again"), ("abandon", "to give them up")):
            arguments = ("--status", "unknown", decision, "--reason", "...", "--ledger", ledger)
            note(f"Decide about them, after a preview, {meaning}: {hint('grants', 'resolve', *arguments)}")
        raise SystemExit(Exit.UNKNOWN)


def _token(text: str) -> AccessToken:
    found = text.strip()
    if not found or len(found.split()) > 1:
        msg = "the token file must contain one token or link and nothing else"
        raise UsageError(msg)
    return AccessToken(link=found, raw=found) if "://" in found else AccessToken(token=found, raw=found)
