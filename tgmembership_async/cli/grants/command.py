"""`tgmembership grants`: list the grants of a ledger, also while its owner runs, and resolve unknown outcomes."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar, get_args

import anyio
import click

from tgmembership_async.cli import time_arguments
from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import columns, fields_of
from tgmembership_async.cli.grants.view import COLOURS, show_findings, show_grants, show_history, show_one
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option, opened
from tgmembership_async.cli.next_steps import next_steps
from tgmembership_async.cli.output import Format, format_option, note, write_one, writing
from tgmembership_async.cli.provision.reading import Reading, members_path, named, reading_options
from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.importing.members import InvalidRow, read_refs
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import OWED, Attempt, Decision, DecisionMade, Grant, GrantStatus, check_decision
from tgmembership_async.grants.reconciling import Finding
from tgmembership_async.values.models import AccessToken

T = TypeVar("T")
_EPILOG: Final = """
\b
Examples:
  export TGMEMBERSHIP_LEDGER=grants.db
  tgmembership grants owed
  tgmembership grants list --status unknown --since 24h
  tgmembership grants reconcile
  tgmembership grants show pi_3Nf
  tgmembership grants resolve pi_3Nf retry --reason "no subscription, no link in the bot's log"
  tgmembership grants undelivered --show-links | my-sender

The output is a table on a terminal and JSON lines in a pipe. The program that owns the ledger may keep running.
"""
_DECISIONS: Final = """
\b
Decisions:
  granted  the customer has access; store the token or link with --token-file
  retry    the next run sends the grant again; if the first attempt took effect, the customer gets a second token
  abandon  no access is granted for this ref, now or later; also for a planned grant

\b
Examples:
  tgmembership grants resolve pi_3Nf granted --reason "customer is in the chat"
  tgmembership grants resolve pi_3Nf granted --token-file link.txt --reason "made by hand"
"""


def _example(arguments: str) -> str:
    return f"\b\nExample:\n  tgmembership grants {arguments}"


@click.group("grants", epilog=_EPILOG)
def command() -> None:
    """List the grants of a ledger and resolve unknown outcomes.

    The status of a grant is planned, sending, granted, delivered, refused, unknown or abandoned. It is unknown if the
    service's answer was lost and the service may or may not have granted access. Unknown grants are not sent again
    automatically, because that could grant access twice. Reconcile them with the service's subscribers, or resolve
    them one by one.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself


_ledger = ledger_option("Ledger file or server.", exists=True, required=True)
_show_links = click.option(
    "--show-links", is_flag=True, help="Also print tokens and links. Anyone who has one can join."
)
_limit = click.option(
    "--limit",
    type=click.IntRange(0),
    help="Maximum number of grants, 0 for all. [default: 100 on a terminal, else all]",
)
_since = click.option(
    "--since",
    metavar="WHEN",
    callback=time_arguments.option,
    help="Only grants changed since, for example 2026-11-01 or 12h. [default: all]",
)
_after = click.option("--after", metavar="REF", help="Only grants after this one, the last of the page before.")


@command.command("list", epilog=_example("list --status unknown --status refused --since 24h"))
@_ledger
@click.option(
    "--status",
    type=click.Choice(list(map(str, GrantStatus))),
    multiple=True,
    help="Only grants with this status; repeatable.",
)
@_since
@_after
@_limit
@_show_links
@format_option
def list_(*, ledger: Place, status: tuple[str, ...], **shown: Any) -> None:
    """List the grants of a ledger, oldest first."""
    _list(ledger, list(map(GrantStatus, status)) or None, **shown)


def _list(
    ledger: Place,
    wanted: Collection[GrantStatus] | None,
    *,
    since: datetime | None,
    after: str | None,
    limit: int | None,
    show_links: bool,
    form: Format,
) -> Counter[GrantStatus]:
    return _with(
        ledger, lambda rows: show_grants(rows.grants(wanted, since, after), form, links=show_links, limit=limit)
    )


@command.command("owed", epilog=_example("owed --since 7d"))
@_ledger
@_since
@_after
@_limit
@_show_links
@format_option
def owed(*, ledger: Place, **shown: Any) -> None:
    """List who paid and has no link, oldest first.

    These are the grants that are granted and not marked as delivered, planned, being sent, unknown or refused: all but
    those delivered or abandoned. What to do about each status is printed on stderr.
    """
    for sentence in next_steps(_list(ledger, OWED, **shown), ledger):
        note(sentence)


@command.command("show", epilog=_example("show pi_3Nf --format json"))
@click.argument("ref")
@_ledger
@_show_links
@format_option
def show(*, ref: str, ledger: Place, show_links: bool, form: Format) -> None:
    """Show the grant of REF with all attempts and decisions."""
    grant, attempts, decisions = _with(ledger, lambda rows: _history(rows, ref))
    show_history(grant, attempts, decisions, form, links=show_links)
    if grant.status is GrantStatus.SENDING:
        note("The grant is being sent. If its process ended, the grant becomes unknown when the ledger is opened next.")


@command.command("resolve", epilog=_DECISIONS)
@click.argument("ref")
@click.argument("decision", type=click.Choice(get_args(Decision)))
@_ledger
@click.option("--reason", required=True, help="Reason, stored with the decision.")
@click.option("--token-file", type=click.File(encoding="utf-8"), help="File with the token or link, - for stdin.")
@format_option
def resolve(*, ref: str, decision: str, ledger: Place, reason: str, token_file: TextIO | None, form: Format) -> None:
    """Resolve the unknown or refused grant of REF, or abandon a planned one.

    The decision is stored with its time and reason.
    """
    checked = check_decision(decision)
    if token_file is not None and checked != "granted":
        msg = "--token-file requires the decision granted"
        raise UsageError(msg)
    token = None if token_file is None else _token(token_file.read())
    _settle_the_dead(ledger)
    show_one(_with(ledger, lambda rows: rows.decide(ref, checked, token, reason)), form, links=False)
    if checked == "retry":
        note("The next `tgmembership provision`, `Granter.grant` or `Granter.run_planned` sends the grant again.")


@command.command("reconcile", epilog=_example("reconcile --ledger grants.db"))
@_ledger
@format_option
def reconcile(*, ledger: Place, form: Format) -> None:
    """Check unknown grants against the service's subscribers.

    An unknown grant becomes granted if the member has a subscription to the same plan that began at least five minutes
    after the attempt, since clocks may be wrong. All other unknown grants stay unchanged and are listed with the
    subscriptions found. Credentials are read from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or
    TGMEMBERSHIP_API_KEY_FILE. Exit code: 0 if no grant is unknown, else 4.
    """
    tg = session()
    _settle_the_dead(ledger)

    async def ask(rows: Ledger) -> list[Finding]:
        async with Granter(tg, rows) as granter:
            return await granter.reconcile()

    findings = _with(ledger, ask)
    show_findings(findings, form)
    left = sum(not finding.settled for finding in findings)
    note(
        f"{len(findings):,} grants were unknown: {len(findings) - left:,} are now granted, {left:,} are still unknown."
    )
    if left:
        note('Resolve them: tgmembership grants resolve REF granted|retry|abandon --reason "..."')
        raise SystemExit(Exit.UNKNOWN)


@command.command("undelivered", epilog=_example("undelivered --show-links --format csv > links.csv"))
@_ledger
@_since
@_after
@_limit
@_show_links
@format_option
def undelivered(*, ledger: Place, **shown: Any) -> None:
    """List the granted members whose links are not delivered.

    These customers may be waiting for their links. Send the links, then run mark-delivered.
    """
    _list(ledger, [GrantStatus.GRANTED], **shown)


@command.command(
    "mark-delivered",
    epilog="\b\nExamples:\n  tgmembership grants mark-delivered pi_3Nf pi_3Ng\n"
    "  tgmembership grants mark-delivered --from links.xlsx --ledger grants.db",
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--from", "source", type=members_path, help="File with the refs of further grants, - for stdin.")
@reading_options
@_ledger
@format_option
def mark_delivered(
    *, refs: tuple[str, ...], source: Path | None, reading: Reading, ledger: Place, form: Format
) -> None:
    """Mark the grant of each REF as delivered.

    With --from, also those of a file, such as a --result of `provision`: any file that `provision` reads, of which only
    the column of the ref matters. Each grant is reported; one that cannot be marked stops no other.
    """
    if not refs and source is None:
        msg = "name a REF, or a file with --from"
        raise UsageError(msg)
    listed = None if source is None else click.get_current_context().with_resource(named(source))
    failed = 0

    async def mark(rows: Ledger) -> None:
        nonlocal failed
        with writing(form, columns(links=False), COLOURS) as out:
            for ref in chain(refs, _refs(listed, reading)):
                if isinstance(ref, InvalidRow):
                    note(f"{source}:{ref.line}: {ref.reason}")
                    failed += 1
                    continue
                try:
                    out.row(fields_of(await rows.mark_delivered(ref), links=False))
                except (GrantError, UsageError) as error:
                    note(f"Error: {error}")
                    failed += 1

    _with(ledger, mark)
    if failed:
        note(f"{failed:,} could not be marked as delivered.")
        raise SystemExit(Exit.FAILED)


def _refs(source: Path | None, reading: Reading) -> Iterator[str | InvalidRow]:
    for found in () if source is None else read_refs(source, **reading):
        yield found if isinstance(found, InvalidRow) else found[1]


@command.command("purge", epilog=_example("purge --delivered-before 30d"))
@_ledger
@click.option(
    "--delivered-before",
    metavar="WHEN",
    callback=time_arguments.option,
    required=True,
    help="Only grants delivered before, for example 2026-11-01 or 30d (30 days ago).",
)
@format_option
def purge(*, ledger: Place, delivered_before: datetime, form: Format) -> None:
    """Overwrite the tokens of delivered grants.

    The grants themselves are kept, so that nothing is granted again.
    """
    write_one(form, {"wiped": _with(ledger, lambda rows: rows.purge(delivered_before))})


def _with(ledger: Place, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
    """Open the ledger without owning it, run `work` on it and return the result."""
    check_there(ledger)

    async def run_it() -> T:
        async with opened(ledger, owner=False) as rows:
            return await work(rows)

    return anyio.run(run_it)


def _settle_the_dead(ledger: Place) -> None:
    """Open the ledger as its owner once, if nobody owns it: grants that a dead owner was sending become unknown."""

    async def own() -> None:
        async with opened(ledger):
            pass

    if isinstance(ledger, Path) and ledger.stat().st_size:  # an owner would create a ledger in an empty file
        with suppress(UsageError):
            anyio.run(own)


async def _history(rows: Ledger, ref: str) -> tuple[Grant, list[Attempt], list[DecisionMade]]:
    grant = await rows.get(ref)
    if grant is None:
        msg = f"this ledger has no grant with the ref {ref}; `tgmembership grants list` lists all refs"
        raise GrantError(msg)
    return grant, await rows.attempts(ref), await rows.decisions(ref)


def _token(text: str) -> AccessToken:
    found = text.strip()
    if not found or len(found.split()) > 1:
        msg = "the token file must contain one token or link and nothing else"
        raise UsageError(msg)
    return AccessToken(link=found, raw=found) if "://" in found else AccessToken(token=found, raw=found)
