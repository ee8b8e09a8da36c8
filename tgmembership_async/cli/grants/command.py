"""`tgmembership grants`: list the grants of a ledger, also while its owner runs, and resolve unknown outcomes."""

import logging
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click

from tgmembership_async.cli import time_arguments
from tgmembership_async.cli.credentials import bot_id
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import COLOURS, columns, fields_of
from tgmembership_async.cli.grants.deciding import reconcile, resolve
from tgmembership_async.cli.grants.opening import each, grants_ledger, since_option, with_ledger
from tgmembership_async.cli.grants.view import show_grants, show_history
from tgmembership_async.cli.help_pages import example
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.next_steps import next_steps
from tgmembership_async.cli.output import Format, format_option, note, write_one, writing
from tgmembership_async.cli.problems import Problems
from tgmembership_async.cli.provision.reading import Reading, members_path, named, reading_options
from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.bot_ledger import key
from tgmembership_async.grants.importing.members import InvalidRow, read_refs
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import OWED, Attempt, DecisionMade, Grant, GrantStatus

_EPILOG: Final = """
\b
Examples:
  export TGMEMBERSHIP_LEDGER=grants.db
  tgmembership grants owed
  tgmembership grants list --status unknown --since 24h
  tgmembership grants reconcile
  tgmembership grants show pi_3Nf
  tgmembership grants resolve pi_3Nf retry --reason "no link in the bot's log"
  tgmembership grants resolve --status unknown --since 24h retry --reason outage
  tgmembership grants undelivered --show-links | my-sender

The output is a table on a terminal and JSON lines in a pipe. The program that owns the ledger may keep running.
"""


@click.group("grants", epilog=_EPILOG)
def command() -> None:
    """List the grants of a ledger and resolve unknown outcomes.

    The status of a grant is planned, sending, granted, delivered, refused, unknown or abandoned. It is unknown if the
    service's answer was lost and the service may or may not have granted access. Unknown grants are not sent again
    automatically, because that could grant access twice. Reconcile them with the service's subscribers, and resolve
    the others, one by one or many at once.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself


_show_links = click.option(
    "--show-links", is_flag=True, help="Also print tokens and links. Anyone who has one can join."
)
_limit = click.option(
    "--limit",
    type=click.IntRange(0),
    help="Maximum number of grants, 0 for all. [default: 100 on a terminal, else all]",
)
_after = click.option("--after", metavar="REF", help="Only grants after this one, the last of the page before.")


@command.command("list", epilog=example("grants list --status unknown --status refused --since 24h"))
@grants_ledger
@click.option(
    "--status",
    type=click.Choice(list(map(str, GrantStatus))),
    metavar="STATUS",
    multiple=True,
    help=f"Only grants that are {', '.join(list(GrantStatus)[:-1])} or {GrantStatus.ABANDONED}; repeatable.",
)
@since_option
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
) -> None:
    with_ledger(
        ledger, lambda rows: show_grants(rows.grants(wanted, since, after), form, links=show_links, limit=limit)
    )


@command.command("owed", epilog=example("grants owed --since 7d"))
@grants_ledger
@since_option
@_after
@_limit
@_show_links
@format_option
def owed(
    *, ledger: Place, since: datetime | None, after: str | None, limit: int | None, show_links: bool, form: Format
) -> None:
    """List the members who paid and have no link, oldest first.

    These are the grants that are granted and not marked as delivered, planned, being sent, unknown or refused: all but
    those delivered or abandoned. What to do about each status is printed on stderr.
    """
    is_part = since is not None or after is not None

    async def show_and_count(rows: Ledger) -> Mapping[GrantStatus, int]:
        shown = await show_grants(rows.grants(OWED, since, after), form, links=show_links, limit=limit)
        return shown if is_part else await rows.count()

    sentences = list(next_steps(with_ledger(ledger, show_and_count), ledger))
    if is_part and sentences:
        note("Of the grants shown:")
    for sentence in sentences:
        note(sentence)


@command.command("show", epilog=example("grants show pi_3Nf --format json"))
@click.argument("ref")
@grants_ledger
@_show_links
@format_option
def show(*, ref: str, ledger: Place, show_links: bool, form: Format) -> None:
    """Show the grant of REF with all attempts and decisions."""
    grant, attempts, decisions = with_ledger(ledger, lambda rows: _history(rows, ref))
    show_history(grant, attempts, decisions, form, links=show_links)
    if grant.status is GrantStatus.SENDING:
        note("The grant is being sent. If its process ended, the grant becomes unknown when the ledger is opened next.")


@command.command("undelivered", epilog=example("grants undelivered --show-links --format csv > links.csv"))
@grants_ledger
@since_option
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
@grants_ledger
@format_option
def mark_delivered(
    *, refs: tuple[str, ...], source: Path | None, reading: Reading, ledger: Place, form: Format
) -> None:
    """Mark the grant of each REF as delivered.

    With --from, also those of a file, such as a --result of `provision`: any file that `provision` reads, of which only
    the column of the ref matters. In a ledger that several bots share, a ref without BOT_ID: is one of the bot in
    TGMEMBERSHIP_BOT_ID. Each grant is reported; one that cannot be marked stops no other.
    """
    if not refs and source is None:
        msg = "name a REF, or a file with --from"
        raise UsageError(msg)
    listed = None if source is None else click.get_current_context().with_resource(named(source))
    problems = Problems()
    bot = bot_id()

    async def mark(rows: Ledger) -> None:
        async def one(ref: str | InvalidRow) -> Grant:
            if isinstance(ref, InvalidRow):
                msg = f"{source}:{ref.line}: {ref.reason}"
                raise UsageError(msg)
            try:
                return await rows.mark_delivered(ref)
            except GrantError:
                shared = None if bot is None else key(bot, ref)
                if shared is None or await rows.get(shared) is None:
                    raise
                return await rows.mark_delivered(shared)

        with writing(form, columns(links=False), COLOURS) as out:
            async for ref, end in each(chain(refs, _refs(listed, reading)), one):
                if isinstance(end, Grant):
                    out.row(fields_of(end, links=False))
                else:
                    problems.failed(f"line {ref.line}" if isinstance(ref, InvalidRow) else ref, end)

    with_ledger(ledger, mark)
    problems.show()
    if problems.total:
        note(f"{problems.total:,} could not be marked as delivered.")
        raise SystemExit(Exit.FAILED)


def _refs(source: Path | None, reading: Reading) -> Iterator[str | InvalidRow]:
    for found in () if source is None else read_refs(source, **reading):
        yield found if isinstance(found, InvalidRow) else found[1]


@command.command("purge", epilog=example("grants purge --delivered-before 30d"))
@grants_ledger
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
    write_one(form, {"wiped": with_ledger(ledger, lambda rows: rows.purge(delivered_before))})


async def _history(rows: Ledger, ref: str) -> tuple[Grant, list[Attempt], list[DecisionMade]]:
    grant = await rows.get(ref)
    if grant is None:
        msg = f"this ledger has no grant with the ref {ref}; `tgmembership grants list` lists all refs"
        raise GrantError(msg)
    return grant, await rows.attempts(ref), await rows.decisions(ref)


for _deciding in (resolve, reconcile):
    command.add_command(_deciding)
