"""`tgmembership grants`: look into a ledger, beside the program that owns it, and decide what only a person can."""

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
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
from tgmembership_async.cli.output import Format, format_option, note, write_one, writing
from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.granter import Finding, Granter
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import Attempt, Decision, DecisionMade, Grant, GrantStatus, check_decision
from tgmembership_async.values.models import AccessToken

T = TypeVar("T")
_EPILOG: Final = """
\b
Examples:
  export TGMEMBERSHIP_LEDGER=grants.db
  tgmembership grants list --status unknown --since 24h
  tgmembership grants reconcile
  tgmembership grants show pi_3Nf
  tgmembership grants resolve pi_3Nf retry --reason "no subscription, no link in the bot's log"
  tgmembership grants undelivered --show-links | my-sender

On a terminal these are tables, in a pipe JSON lines. The bot that owns the ledger may run meanwhile.
"""
_DECISIONS: Final = """
\b
granted  the customer has access; with --token-file, if you found the link
retry    the next run sends it again: if the first time took effect after all, that is a second token
abandon  nothing will ever be granted under this ref

\b
Examples:
  tgmembership grants resolve pi_3Nf granted --reason "customer is in the chat"
  tgmembership grants resolve pi_3Nf granted --token-file link.txt --reason "made by hand"
"""


def _example(arguments: str) -> str:
    return f"\b\nExample:\n  tgmembership grants {arguments}"


@click.group("grants", epilog=_EPILOG)
def command() -> None:
    """Look into a ledger of grants, and decide what only you can decide.

    A grant is planned, sending, granted and delivered; or refused; or unknown, when nobody can tell whether the service
    acted before its answer was lost. Unknown ones are never sent again by themselves: that might give access away
    twice. Reconcile them with the service's subscribers, or resolve them one by one.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # all of it is told on stdout or stderr


_ledger = ledger_option("The ledger's file, or its server.", exists=True, required=True)
_show_links = click.option("--show-links", is_flag=True, help="Show tokens and links: whoever reads one may join.")
_limit = click.option(
    "--limit", type=click.IntRange(0), help="Show so many at most, 0 for all. [default: 100 on a terminal, else all]"
)
_since = click.option(
    "--since",
    metavar="WHEN",
    callback=time_arguments.option,
    help="Only what changed since: 2026-11-01, 12h. [default: all]",
)


@command.command("list", epilog=_example("list --status unknown --status refused --since 24h"))
@_ledger
@click.option("--status", type=click.Choice(list(map(str, GrantStatus))), multiple=True, help="Only these; repeatable.")
@_since
@_limit
@_show_links
@format_option
def list_(
    *, ledger: Place, status: tuple[str, ...], since: datetime | None, limit: int | None, show_links: bool, form: Format
) -> None:
    """List grants, the oldest first."""
    wanted = list(map(GrantStatus, status)) or None
    _with(ledger, lambda rows: show_grants(rows.grants(wanted, since), form, links=show_links, limit=limit))


@command.command("show", epilog=_example("show pi_3Nf --format json"))
@click.argument("ref")
@_ledger
@_show_links
@format_option
def show(*, ref: str, ledger: Place, show_links: bool, form: Format) -> None:
    """Show one grant with every attempt and every decision."""
    grant, attempts, decisions = _with(ledger, lambda rows: _history(rows, ref))
    show_history(grant, attempts, decisions, form, links=show_links)
    if grant.status is GrantStatus.SENDING:
        note("It is being sent, or its sender died: then it becomes unknown when the ledger's next owner opens it.")


@command.command("resolve", epilog=_DECISIONS)
@click.argument("ref")
@click.argument("decision", type=click.Choice(get_args(Decision)))
@_ledger
@click.option("--reason", required=True, help="Why; kept with the decision.")
@click.option("--token-file", type=click.File(encoding="utf-8"), help="A file with the token or link, - for stdin.")
@format_option
def resolve(*, ref: str, decision: str, ledger: Place, reason: str, token_file: TextIO | None, form: Format) -> None:
    """Decide about an unknown or refused grant.

    The decision is kept with its time and reason.
    """
    checked = check_decision(decision)
    if token_file is not None and checked != "granted":
        msg = "--token-file goes with granted only"
        raise UsageError(msg)
    token = None if token_file is None else _token(token_file.read())
    _settle_the_dead(ledger)
    show_one(_with(ledger, lambda rows: rows.decide(ref, checked, token, reason)), form, links=False)
    if checked == "retry":
        note("It is sent by the next `tgmembership provision` of its file, or `granter.grant` or `run_planned`.")


@command.command("reconcile", epilog=_example("reconcile --ledger grants.db"))
@_ledger
@format_option
def reconcile(*, ledger: Place, form: Format) -> None:
    """Ask the service about unknown grants.

    What its subscribers prove is settled to granted: a subscription to the same plan that began after the attempt.
    Everything else stays as it is, and is shown with what was seen. The credentials come from TGMEMBERSHIP_BOT_ID, and
    TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE. Exit code: 0 if nothing is unknown any more, else 4.
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
        f"{len(findings):,} were unknown: {len(findings) - left:,} are proven to be granted, {left:,} are left to you."
    )
    if left:
        note('Decide with: tgmembership grants resolve REF granted|retry|abandon --reason "..."')
        raise SystemExit(Exit.UNKNOWN)


@command.command("undelivered", epilog=_example("undelivered --show-links --format csv > links.csv"))
@_ledger
@_since
@_limit
@_show_links
@format_option
def undelivered(*, ledger: Place, since: datetime | None, limit: int | None, show_links: bool, form: Format) -> None:
    """List the grants whose links are not delivered.

    That is what is granted and not marked: these customers may wait. Send their links, and then mark-delivered.
    """
    wanted = [GrantStatus.GRANTED]
    _with(ledger, lambda rows: show_grants(rows.grants(wanted, since), form, links=show_links, limit=limit))


@command.command("mark-delivered", epilog=_example("mark-delivered pi_3Nf pi_3Ng"))
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@_ledger
@format_option
def mark_delivered(*, refs: tuple[str, ...], ledger: Place, form: Format) -> None:
    """Record that customers have their links."""

    async def mark(rows: Ledger) -> None:
        with writing(form, columns(links=False), COLOURS) as out:
            for ref in refs:
                out.row(fields_of(await rows.mark_delivered(ref), links=False))

    _with(ledger, mark)


@command.command("purge", epilog=_example("purge --delivered-before 30d"))
@_ledger
@click.option(
    "--delivered-before",
    metavar="WHEN",
    callback=time_arguments.option,
    required=True,
    help="2026-11-01, say, or 30d for 30 days ago.",
)
@format_option
def purge(*, ledger: Place, delivered_before: datetime, form: Format) -> None:
    """Overwrite the tokens of old deliveries.

    The grants themselves stay, so that nothing is granted again.
    """
    write_one(form, {"wiped": _with(ledger, lambda rows: rows.purge(delivered_before))})


def _with(ledger: Place, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
    """Return what the work returns, done beside the owner of the ledger if there is one."""
    check_there(ledger)

    async def beside() -> T:
        async with opened(ledger, owner=False) as rows:
            return await work(rows)

    return anyio.run(beside)


def _settle_the_dead(ledger: Place) -> None:
    """Own the ledger for a moment, if nobody does, so that what a dead owner was sending can be decided about."""

    async def own() -> None:
        async with opened(ledger):
            pass

    if isinstance(ledger, Path) and ledger.stat().st_size:  # an owner would make a ledger of an empty file
        with suppress(UsageError):
            anyio.run(own)


async def _history(rows: Ledger, ref: str) -> tuple[Grant, list[Attempt], list[DecisionMade]]:
    grant = await rows.get(ref)
    if grant is None:
        msg = f"this ledger has no grant with the ref {ref}; `tgmembership grants list` shows those it has"
        raise GrantError(msg)
    return grant, await rows.attempts(ref), await rows.decisions(ref)


def _token(text: str) -> AccessToken:
    found = text.strip()
    if not found or len(found.split()) > 1:
        msg = "the token file must hold one token or link, and nothing else"
        raise UsageError(msg)
    return AccessToken(link=found, raw=found) if "://" in found else AccessToken(token=found, raw=found)
