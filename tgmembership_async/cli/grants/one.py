"""`tgmembership grant`: one member, one token, however often it is run."""

import logging
from typing import Final

import anyio
import click

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.grant_lines import fields_of
from tgmembership_async.cli.ledger_option import Place, ledger_at, ledger_option
from tgmembership_async.cli.output import Format, format_option, hint, note, write_one
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest

_EPILOG: Final = """
\b
Examples:
  tgmembership grant pi_3Nf --plan-id 1 --member-id 4200 --ledger grants.db
  tgmembership grant pi_3Nf --plan-id 1 --ledger grants.db --show-links

\b
If the outcome is unknown (exit code 4), nothing is sent again until you decide:
  tgmembership grants reconcile --ledger grants.db
  tgmembership grants resolve pi_3Nf granted|retry|abandon --reason "..." --ledger grants.db
"""


@click.command("grant", epilog=_EPILOG)
@click.argument("ref")
@click.option("--plan-id", type=click.IntRange(1), required=True, help="Grant this plan.")
@click.option("--member-id", type=click.IntRange(1), help="To this Telegram user, who has talked to the bot.")
@click.option("--note", "text", default="", help="Keep this with the grant: the chat to write to, say.")
@ledger_option("Keep what was granted in this file, or on this server.", required=True)
@click.option("--show-links", is_flag=True, help="Print token and link too: whoever reads one may join.")
@format_option
def command(
    *, ref: str, plan_id: int, member_id: int | None, text: str, ledger: Place, show_links: bool, form: Format
) -> None:
    """Grant one member access to a plan, exactly once for REF: your own id of the payment.

    The intent is in the ledger before the request leaves. Run it again after a crash or a Ctrl-C, and it grants only
    what was not granted; a grant that is there already is printed, and nothing is sent.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # all of it is told on stdout or stderr
    grant = anyio.run(_grant, GrantRequest(ref, plan_id, member_id, text), ledger)
    write_one(form, fields_of(grant, links=show_links))
    if not show_links:
        # A ref that looks like an option has to stand behind `--`.
        told = ("--show-links", "--", ref) if ref.startswith("-") else (ref, "--show-links")
        note(f"The link: {hint('grants', 'show', *told)}")


async def _grant(request: GrantRequest, ledger: Place) -> Grant:
    async with Granter(session(), ledger_at(ledger)) as granter:
        return await granter.grant(request.ref, plan_id=request.plan_id, member_id=request.member_id, note=request.note)
