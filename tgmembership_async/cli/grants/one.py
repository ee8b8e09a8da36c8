"""`tgmembership grant`: grant one member access, exactly once per ref."""

from datetime import datetime
from typing import Final

import anyio
import click
from attrs import asdict

from tgmembership_async.cli import time_arguments
from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.grant_lines import fields_of
from tgmembership_async.cli.ledger_option import Place, ledger_at, ledger_option, only_note_restores
from tgmembership_async.cli.output import Format, format_option, hint, note, write_one
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest

_EPILOG: Final = """
\b
Examples:
  tgmembership grant pi_3Nf --plan-id 1 --member-id 4200 --ledger grants.db
  tgmembership grant pi_3Nf --plan-id 1 --ledger grants.db --show-links

\b
If the outcome is unknown (exit code 4), the grant is not sent again until you resolve it:
  tgmembership grants reconcile --ledger grants.db
  tgmembership grants resolve pi_3Nf granted|retry|abandon --reason "..." --ledger grants.db
"""


@click.command("grant", epilog=_EPILOG)
@click.argument("ref")
@click.option("--plan-id", type=click.IntRange(1), required=True, help="Plan to grant.")
@click.option(
    "--member-id", type=click.IntRange(1), help="Telegram user id of the member, who must have messaged the bot before."
)
@click.option("--note", "text", default="", help="Note to store with the grant, for example a chat id.")
@click.option(
    "--paid-at",
    metavar="WHEN",
    callback=time_arguments.option,
    help="Time of the payment, such as 2026-11-01T18:30 (UTC); a ledger that was restored needs it.",
)
@ledger_option("Ledger file or server.", required=True)
@click.option("--show-links", is_flag=True, help="Also print token and link. Anyone who has one can join.")
@format_option
def command(
    *,
    ref: str,
    plan_id: int,
    member_id: int | None,
    text: str,
    paid_at: datetime | None,
    ledger: Place,
    show_links: bool,
    form: Format,
) -> None:
    """Grant one member access to a plan, exactly once per REF.

    REF is your own id of the payment. The grant is stored in the ledger before the request is sent, so it is safe to
    run the command again after a crash or Ctrl-C. If the ref is already granted, the grant is printed and nothing is
    sent.
    """
    only_note_restores()  # the command prints all else itself
    grant = anyio.run(_grant, GrantRequest(ref, plan_id, member_id, text, paid_at), ledger)
    write_one(form, fields_of(grant, links=show_links))
    if not show_links:
        # A ref that looks like an option must follow `--`.
        options = ("--show-links", "--ledger", ledger)
        arguments = (*options, "--", ref) if ref.startswith("-") else (ref, *options)
        note(f"Show the link: {hint('grants', 'show', *arguments)}")


async def _grant(request: GrantRequest, ledger: Place) -> Grant:
    async with Granter(session(), ledger_at(ledger)) as granter:
        return await granter.grant(**asdict(request))
