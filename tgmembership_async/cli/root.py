"""The root of the command line: a table of the commands. Each is imported when it is called."""

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from tgmembership_async.cli.exit_codes import MEANINGS, Exit, exit_of
from tgmembership_async.cli.help_pages import PageContext, with_pages
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.version import __version__

_COMMANDS: Final[Mapping[str, str]] = {
    "access": "Tell whether a user has access now.",
    "ban": "Ban a user from a project.",
    "bots": "Add, list and remove the bots that --bot can name.",
    "call": "Call any method of the service by name.",
    "completion": "Print a shell completion script.",
    "demo": "Run `provision` under injected faults and compare its ledger with the service's audit log.",
    "desk": "Serve a page for your browser on which you decide about held grants.",
    "doctor": "Check credentials, network, clock and replies, and print a report for a bug ticket.",
    "extend": "Set the end of the memberships of a user, or of everybody, in a project.",
    "fake": "Run a fake TGmembership service on this machine.",
    "grant": "Grant one member access to a plan, exactly once per ref.",
    "grants": "List the grants of a ledger and resolve unknown outcomes.",
    "ledger": "Create, migrate, copy and back up a ledger, and accept a restored one.",
    "mcp": "Let an assistant read sales and grants, with the Model Context Protocol.",
    "members": "List a bot's subscribers or a project's memberships.",
    "orders": "Show the number of orders.",
    "payment-methods": "Show the number of orders per payment method.",
    "performance": "Show orders and revenue per plan.",
    "plans": "List the plans.",
    "provision": "Grant access to the members in a file, exactly once each.",
    "remove": "End a membership in a project.",
    "report": "Show sales and grants, as tables or as an HTML page.",
    "revenue": "Show the revenue per currency.",
    "subscribers": "List the subscribers and their plans.",
    "unban": "Lift a ban in a project.",
    "users": "Show the number of users.",
    "webhook": "Set or delete the webhook, print its events, verify and sign deliveries.",
    "worker": "Process the grants in a job queue on PostgreSQL.",
}
_OF_PROJECTS: Final = ("access", "ban", "extend", "members", "remove", "unban")
_ON_A_PROJECT: Final = (*_OF_PROJECTS, "doctor", "grants", "webhook")
_HOMES: Final[Mapping[str, str]] = {  # only if the module's name differs from the command's
    **dict.fromkeys(_OF_PROJECTS, "project.command"),
    "bots": "bots.command",
    "demo": "demo.command",
    "desk": "desk.command",
    "doctor": "doctor.command",
    "grant": "grants.one",
    "grants": "grants.command",
    "mcp": "mcp.command",
    "orders": "reads",
    "payment-methods": "reads",
    "performance": "reads",
    "plans": "reads",
    "provision": "provision.command",
    "report": "report.command",
    "revenue": "reads",
    "users": "reads",
    "webhook": "webhook.command",
}
_WITHOUT_A_BOT: Final = frozenset({"bots", "completion", "demo", "fake"})
_EPILOG: Final = """
\b
Examples:
  tgmembership --env-file .env plans
  tgmembership revenue --format csv > revenue.csv
  tgmembership provision members.csv --plan-id 1
  tgmembership grants list --status unknown

Credentials are read from TGMEMBERSHIP_BOT_ID and from TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE, in the
environment or in --env-file. On a terminal, missing ones are prompted for. For a project, the token is read from
TGMEMBERSHIP_PROJECT_TOKEN or TGMEMBERSHIP_PROJECT_TOKEN_FILE. There is no option for them, because other users of this
machine can read command lines. With --bot, the settings of that bot or project replace all of these.

\b
Exit codes:
""" + "\n".join(f"  {code:<4d} {meaning}" for code, meaning in MEANINGS.items())


class Commands(click.Group):
    """A group that imports a command on use: `command` of its module, or an entry of `commands` if that has several."""

    context_class: type[click.Context] = PageContext

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's too
        """Import and return a command, or None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        home = _HOMES.get(cmd_name, cmd_name)
        module = import_module(f"tgmembership_async.cli.{home}")
        found: click.Command = module.commands[cmd_name] if hasattr(module, "commands") else module.command
        return with_pages(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's too
        """Write the list of commands from the table, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table, so that no command is imported."""
        named = [CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; errors about them contain no control characters."""
        with _interrupted(), _harmless():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An error becomes at most one message on stderr and an exit code of `exit_codes`."""
        try:
            with _interrupted(), _harmless():
                from tgmembership_async.cli.signals import endings_interrupt  # noqa: PLC0415 - not for `--help`

                with endings_interrupt():
                    return _flushed(super().invoke, ctx)
        except TGMembershipError as error:
            message, code = _shown(_advised(error)), exit_of(error)
            kind = click.UsageError if isinstance(error, UsageError) else click.ClickException
        except BrokenPipeError:
            # Discard the rest of the buffer: otherwise Python prints an error at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(Exit.PIPE_CLOSED) from None
        failure = kind(message)
        setattr(failure, "exit_code", code)  # noqa: B010 - click types it as a class attribute, and reads the instance's
        raise failure


@contextmanager
def _interrupted() -> Generator[None]:
    """Exit with the code of an interrupt after Ctrl-C; click would exit with 1."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        with suppress(OSError):  # the terminal is gone
            click.echo("Interrupted.", err=True)
        raise SystemExit(Exit.INTERRUPTED) from None


@contextmanager
def _harmless() -> Generator[None]:
    """Escape control characters in click's own errors, which quote arguments and file names unchanged."""
    try:
        yield
    except click.ClickException as error:
        message = _shown(error.format_message())
        setattr(error, "format_message", lambda: message)  # noqa: B010 - a method, which says more than `message`
        raise


def _shown(text: str) -> str:
    from tgmembership_async.cli.output import fitted, shown  # noqa: PLC0415 - `--help` does not need it

    label = "Error: "  # which click puts before it
    return fitted(f"{label}{shown(text)}").removeprefix(label)


def _advised(error: TGMembershipError) -> str:
    """Return the message of an error of a call, with the next step, if the message cannot know it."""
    from tgmembership_async.errors import Advice, CallError, Unauthorized  # noqa: PLC0415 - `--help` does not need it

    advice = ""
    if isinstance(error, Unauthorized):
        advice = "check the credentials: tgmembership doctor"
    elif isinstance(error, CallError) and error.advice is Advice.CALL_AGAIN:
        advice = "it is safe to run the command again"
    elif isinstance(error, CallError) and error.advice is Advice.WAIT:
        advice = "run the command again later"
    return f"{str(error).removesuffix('.')}; {advice}" if advice else str(error)


def _flushed(invoke: Any, ctx: click.Context) -> Any:
    try:
        return invoke(ctx)
    finally:
        sys.stdout.flush()


def _bots(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from tgmembership_async.cli.bots.command import completed  # noqa: PLC0415 - `--help` does not need it

    return completed(ctx, parameter, incomplete)


@click.group(
    cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option(
    "--bot",
    metavar="NAME",
    shell_complete=_bots,
    help="Bot to use, one of `tgmembership bots list`. [env var: TGMEMBERSHIP_BOT]",
)
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of KEY=VALUE lines; its variables override the environment.",
)
@click.option("--project", metavar="ID", help="Call API v2 for this project instead of calling for the bot.")
@click.pass_context
def command(ctx: click.Context, /, *, bot: str | None, env_file: Path | None, project: str | None) -> None:
    """Sell access to Telegram chats with TGmembership: exactly one access token for each payment."""
    if env_file is not None:
        from tgmembership_async.cli.credentials import load  # noqa: PLC0415 - `--help` does not need it

        load(env_file)
    if project is not None:
        from tgmembership_async.protocol.endpoints import check_uuid  # noqa: PLC0415 - `--help` does not need it

        project = ctx.params["project"] = check_uuid("--project", project)
    if bot is not None and project is not None:
        msg = "choose one of --bot and --project"
        raise UsageError(msg)
    name, by_option = bot or os.environ.get("TGMEMBERSHIP_BOT"), project is not None
    if ctx.invoked_subcommand in _WITHOUT_A_BOT or project is not None:
        os.environ.pop("TGMEMBERSHIP_BOT", None)
    elif name:
        from tgmembership_async.cli.bots.profiles import choose  # noqa: PLC0415 - `--help` does not need it

        project = ctx.params["project"] = choose(name, by_variable=bot is None).project_id
    if project is not None and ctx.invoked_subcommand not in _ON_A_PROJECT:
        otherwise = "leave out --project" if by_option else "choose another with --bot"
        can = ", ".join(_ON_A_PROJECT)
        msg = f"{ctx.invoked_subcommand} cannot work on a project: {otherwise}; these can: {can}"
        raise UsageError(msg)
