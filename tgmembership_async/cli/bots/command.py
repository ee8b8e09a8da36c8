"""`tgmembership bots`: add, list and remove the profiles of several bots."""

import sys
from pathlib import Path
from typing import Any, Final

import click

from tgmembership_async.cli.bots import profiles
from tgmembership_async.cli.help_pages import example
from tgmembership_async.cli.ledger_option import Server, place
from tgmembership_async.cli.output import Format, format_option, note, writing
from tgmembership_async.errors import UsageError
from tgmembership_async.project.account import BASE_URL as PROJECT_URL
from tgmembership_async.project.account import account as project_account
from tgmembership_async.protocol.endpoints import check_id, check_uuid
from tgmembership_async.settings import BASE_URL, account
from tgmembership_async.values.secret import Secret

_EPILOG: Final = """
\b
Examples:
  tgmembership bots add shop 8047883872 --ledger grants.db
  tgmembership --bot shop plans
  TGMEMBERSHIP_BOT=shop tgmembership grants list
  tgmembership bots list

A bot that is named with --bot or TGMEMBERSHIP_BOT is used as a whole: its settings replace those of the variables
TGMEMBERSHIP_BOT_ID, _API_KEY, _API_KEY_FILE, _BASE_URL, _GENERATION, _LEDGER, _INBOX, and of a project, and what it
does not set is unset. --bot precedes --env-file, and credentials in --env-file precede TGMEMBERSHIP_BOT. An option of
a command, such as --ledger, precedes the bot. If TGMEMBERSHIP_BOT and TGMEMBERSHIP_BOT_ID name different bots, nothing
is done.
"""
_COLUMNS: Final = ("name", "id", "key", "base_url", "ledger", "inbox")


@click.group("bots", epilog=_EPILOG)
def command() -> None:
    """Manage the bots that --bot can name.

    They are in a file that only you can read; `bots path` prints its name. You can also edit it.
    """


def _placed(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return a path as an absolute one, and a URL as it is; a password in it is refused."""
    found = None if value is None else place(value)
    return str(found.absolute()) if isinstance(found, Path) else None if found is None else found.url


@command.command("add", epilog=example("bots add shop 8047883872 --ledger grants.db"))
@click.argument("name")
@click.argument("id_", metavar="ID")
@click.option("--base-url", default=None, help="URL of the service. [default: its public one]")
@click.option("--generation", type=click.Choice(["legacy", "v1"]), help="API of the bot. [default: legacy]")
@click.option("--ledger", metavar="FILE|postgresql://...", callback=_placed, help="Ledger of the bot.")
@click.option("--inbox", metavar="FILE|postgresql://...", callback=_placed, help="Inbox of the bot's webhooks.")
@click.option("--keyring", is_flag=True, help="Store the API key in the keyring of the system. Requires `keyring`.")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that has the API key already, instead of asking for the key.",
)
def add(
    *,
    name: str,
    id_: str,
    base_url: str | None,
    generation: str | None,
    ledger: str | None,
    inbox: str | None,
    keyring: bool,
    key_file: Path | None,
) -> None:
    """Add the bot or project ID as NAME.

    ID is a number for a bot, and a UUID for a project of API v2. The API key, or the token of a project, is asked for
    and not echoed, or read from stdin in a pipe. It is stored in a file of mode 0600 beside the file of the bots, or in
    the keyring.
    """
    if keyring and key_file is not None:
        msg = "choose one of --keyring and --key-file"
        raise UsageError(msg)
    file = None if keyring else str(key_file.absolute() if key_file else profiles.own_key_file(name))
    is_bot = id_.isascii() and id_.isdigit()
    ids: dict[str, Any] = {"bot_id": check_id("ID", int(id_))} if is_bot else {"project_id": check_uuid("ID", id_)}
    of: dict[str, Any] = {"base_url": base_url, "generation": generation, "ledger": ledger, "inbox": inbox}
    new = profiles.Profile(name, key_file=file, keyring=keyring, **ids, **of)
    profiles.check_new(new)  # before the key is asked for
    key = _asked() if key_file is None else profiles.key_of(new)
    if is_bot:
        account(int(id_), key, base_url or BASE_URL, generation=generation or "legacy")
    else:
        project_account(id_, key, base_url or PROJECT_URL, "unknown")
    path = profiles.add(new, key if key_file is None else None)
    note(f"{name} is in {path}, its key in {'the keyring' if keyring else file}.")


def _asked() -> Secret:
    if sys.stdin.isatty():
        return Secret(click.prompt("API key (hidden)", hide_input=True, err=True).strip())
    return Secret(sys.stdin.readline().strip())


@command.command("list", epilog=example("bots list --format json"))
@format_option
def list_(*, form: Format) -> None:
    """List the bots, without keys and passwords."""
    with writing(form, _COLUMNS) as out:
        for one in profiles.profiles().values():
            key = "keyring" if one.key_file is None else one.key_file
            row = (one.name, one.project_id or one.bot_id, key, one.base_url, _shown(one.ledger), _shown(one.inbox))
            out.row(dict(zip(_COLUMNS, row, strict=True)))


def _shown(value: str | None) -> str | None:
    return None if value is None else str(Server(value)) if "://" in value else value


def completed(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the bots that begin like this, for a shell."""
    try:
        return [name for name in profiles.profiles() if name.startswith(incomplete)]
    except UsageError:
        return []


@command.command("remove", epilog=example("bots remove shop"))
@click.argument("name", shell_complete=completed)
def remove(*, name: str) -> None:
    """Remove the bot NAME, and its key unless the key is in a file of your own. Its ledger stays."""
    removed = profiles.remove(name)
    note(f"{removed.name} is removed." + (f" Its ledger stays: {_shown(removed.ledger)}" if removed.ledger else ""))


@command.command("path", epilog=example("bots path"))
def path() -> None:
    """Print the path of the file with the bots."""
    click.echo(profiles.file())
