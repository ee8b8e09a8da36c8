"""The root of the command line: a table of commands, each of which is imported when it is called."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.version import __version__

_COMMANDS: Final[Mapping[str, str]] = {
    "demo": "Grant a thousand members access to plans of a fake service that misbehaves.",
    "fake": "Serve a fake TGmembership on this machine, to try things on.",
    "grants": "Look into a ledger of grants, and decide what only you can decide.",
    "provision": "Grant access to the members of a file, exactly once each.",
    "webhook": "Set the webhook, watch its events, find out why a delivery is not authentic.",
}


class Commands(click.Group):
    """A group whose commands live in one module each, under their own name, as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's too
        """Import and return a command, or None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = import_module(f"tgmembership_async.cli.{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's too
        """Write the list of commands from the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors of ours end in one message on stderr, and exit code 2 for wrong use or else 1."""
        try:
            return super().invoke(ctx)
        except TGMembershipError as error:
            message = str(error)
            kind = click.UsageError if isinstance(error, UsageError) else click.ClickException
        raise kind(message)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def command() -> None:
    """Sell access to Telegram chats with TGmembership: exactly one access token for each payment."""
