"""The root of the command line: a table of commands, each of which is imported when it is called."""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from tgmembership_async.cli.exit_codes import MEANINGS, Exit, exit_of
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.version import __version__

_COMMANDS: Final[Mapping[str, str]] = {
    "call": "Call any method of the service by name.",
    "completion": "Print what makes a shell complete commands and options.",
    "demo": "Grant a thousand members access to plans of a fake service that misbehaves.",
    "doctor": "Find out what is wrong between here and the service, for a bug ticket.",
    "fake": "Serve a fake TGmembership on this machine, to try things on.",
    "grant": "Grant one member access, exactly once for each ref.",
    "grants": "Look into a ledger of grants, and decide what only you can decide.",
    "ledger": "Make a ledger, bring it up to date, copy it, back it up.",
    "orders": "Count the orders.",
    "payment-methods": "Show how often each payment method was used.",
    "performance": "Show what each plan sold.",
    "plans": "List the plans.",
    "provision": "Grant access to the members of a file, exactly once each.",
    "report": "Show what the bot sold and granted, as tables or as a page of HTML.",
    "revenue": "Show what came in, by currency.",
    "subscribers": "List who has access to what.",
    "users": "Count the users.",
    "webhook": "Set the webhook, watch its events, find out why a delivery is not authentic.",
    "worker": "Carry out grants that wait in a queue on PostgreSQL, on as many machines as you like.",
}
_HOMES: Final[Mapping[str, str]] = {  # where it is not the module of the command's own name
    "demo": "demo.command",
    "doctor": "doctor.command",
    "grant": "grants.one",
    "grants": "grants.command",
    "orders": "reads",
    "payment-methods": "reads",
    "performance": "reads",
    "plans": "reads",
    "provision": "provision.command",
    "report": "report.command",
    "revenue": "reads",
    "subscribers": "reads",
    "users": "reads",
    "webhook": "webhook.command",
}
_EPILOG: Final = """
\b
Examples:
  tgmembership --env-file .env plans
  tgmembership revenue --format csv > revenue.csv
  tgmembership provision members.csv --plan-id 1
  tgmembership grants list --status unknown

The credentials come from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE, in the environment
or in --env-file; on a terminal, what is missing is asked for. They are never a flag, for everybody on this machine sees
those.

\b
Exit codes:
""" + "\n".join(f"  {code:<4d} {meaning}" for code, meaning in MEANINGS.items())


class Commands(click.Group):
    """A group whose commands live in one module each, as `command`; those of `reads` in its mapping `commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's too
        """Import and return a command, or None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        home = _HOMES.get(cmd_name, cmd_name)
        module = import_module(f"tgmembership_async.cli.{home}")
        found: click.Command = module.commands[cmd_name] if home == "reads" else module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's too
        """Write the list of commands from the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete from the table, for the same reason."""
        named = [CompletionItem(name, help=told) for name, told in _COMMANDS.items() if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; what is wrong with them is told without control characters."""
        with _harmless():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever ends it early is one message on stderr at most, and an exit code of the table."""
        try:
            with _harmless():
                return _flushed(super().invoke, ctx)
        except TGMembershipError as error:
            message, code = _shown(str(error)), exit_of(error)
            kind = click.UsageError if isinstance(error, UsageError) else click.ClickException
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)
            raise SystemExit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            # What is left in the buffer goes nowhere; Python would complain about it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(Exit.PIPE_CLOSED) from None
        failure = kind(message)
        setattr(failure, "exit_code", code)  # noqa: B010 - click types it as a class's, and reads the instance's
        raise failure


@contextmanager
def _harmless() -> Generator[None]:
    """Escape control characters in click's own errors, which quote arguments and names of files as they are."""
    try:
        yield
    except click.ClickException as error:
        setattr(error, "message", _shown(error.message))  # noqa: B010 - click types it as final
        raise


def _shown(text: str) -> str:
    from tgmembership_async.cli.output import shown  # noqa: PLC0415 - not for `--help`

    return shown(text)


def _flushed(invoke: Any, ctx: click.Context) -> Any:
    try:
        return invoke(ctx)
    finally:
        sys.stdout.flush()


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take variables from this file of KEY=VALUE lines; they win over the environment.",
)
def command(*, env_file: Path | None) -> None:
    """Sell access to Telegram chats with TGmembership: exactly one access token for each payment."""
    if env_file is not None:
        from tgmembership_async.cli.credentials import load  # noqa: PLC0415 - it loads what `--help` does without

        load(env_file)
