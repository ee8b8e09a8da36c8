"""Read the bot's credentials from the environment, a file or a prompt. Options are visible to other users."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import click

from tgmembership_async import settings
from tgmembership_async.cli.bots.profiles import CHOSEN, PREFIX, fetch_key
from tgmembership_async.cli.output import note
from tgmembership_async.descriptors import shortage
from tgmembership_async.errors import UsageError
from tgmembership_async.options import ClientOptions, SessionOptions
from tgmembership_async.protocol.wire import Account, BotAccount
from tgmembership_async.session import Session
from tgmembership_async.values.secret import hides_arguments

if TYPE_CHECKING:
    from tgmembership_async.project.client import Project

_BOT_ID: Final = f"{PREFIX}BOT_ID"
_LONGEST_ID: Final = 19
_KEYS: Final = (f"{PREFIX}API_KEY", f"{PREFIX}API_KEY_FILE")


def session(**options: Unpack[SessionOptions]) -> Session:
    """Return a Session for the bot in the environment; on a terminal, prompt for missing variables."""
    short = shortage(options.get("max_connections", 1))
    if short is not None:
        note(f"Warning: {short}.")
    arguments: dict[str, Any] = {**_credentials(), **options}
    return Session(**arguments)


def account() -> BotAccount:
    """Return the account of the bot in the environment. Raises UsageError if it is not valid."""
    return settings.account(**_credentials())


def bot_id() -> int | None:
    """Return the id of the bot in the environment, or None: its key is not needed, and nothing is prompted for."""
    found = os.environ.get(_BOT_ID)
    return int(_bot_id(found)) if found else None


def project_id() -> str | None:
    """Return the project that `--project` or the chosen profile names, or None for a bot."""
    found: str | None = click.get_current_context().find_root().params.get("project")
    return found


def project(number: str, **options: Unpack[ClientOptions]) -> "Project":
    """Return a Project; its token is in the environment."""
    from tgmembership_async.project.client import Project  # noqa: PLC0415 - most commands are for bots

    arguments: dict[str, Any] = {**_project_credentials(number), **options}
    return Project(**arguments)


def project_account(number: str) -> Account:
    """Return the account of a project. Raises UsageError if it is not valid."""
    from tgmembership_async.project import account as accounts  # noqa: PLC0415 - most commands are for bots

    given = _project_credentials(number)
    return accounts.account(given["project_id"], given["token"], given.get("base_url", accounts.BASE_URL), "unknown")


def client(**options: Unpack[ClientOptions]) -> "Session | Project":
    """Return a Project if `--project` is given, otherwise a Session for the bot in the environment."""
    number = project_id()
    return session(**options) if number is None else project(number, **options)


@hides_arguments
def _project_credentials(number: str) -> dict[str, Any]:
    from tgmembership_async.project.account import from_environment  # noqa: PLC0415 - most commands are for bots

    fetch_key()
    return from_environment(PREFIX, {**os.environ, f"{PREFIX}PROJECT_ID": number})


@hides_arguments
def _credentials() -> dict[str, Any]:
    fetch_key()
    if sys.stdin.isatty() and sys.stderr.isatty():
        # Keep the answers in the environment of this process, so that each is prompted for once.
        if not os.environ.get(_BOT_ID):
            os.environ[_BOT_ID] = click.prompt("Bot id", err=True, value_proc=_bot_id)
        _bot_id(os.environ[_BOT_ID])
        if not any(os.environ.get(name) for name in _KEYS):
            os.environ[_KEYS[0]] = click.prompt("API key (hidden)", hide_input=True, err=True)
    return settings.from_environment(PREFIX)


def _bot_id(text: str) -> str:
    """Return a bot id, or raise UsageError before the key is prompted for; a long text may be the key itself."""
    found = text.strip()
    if not (found.isascii() and found.isdecimal() and int(found)):
        shown = repr(found) if len(found) <= _LONGEST_ID else "a text of that length"
        msg = f"{shown} is no bot id, which is a number such as 8047883872"
        raise click.UsageError(msg)
    return found


@hides_arguments
def load(path: Path) -> None:
    """Read a file of `KEY=VALUE` lines into the environment; its variables override those already set."""
    found = _read(path)
    if found.get(_BOT_ID) or any(found.get(name) for name in _KEYS):
        os.environ.pop(CHOSEN, None)  # the file that is named precedes the variable
    if any(found.get(name) for name in _KEYS):
        for name in _KEYS:  # a variable in the file and another in the environment would conflict
            os.environ.pop(name, None)
    os.environ.update(found)


def _read(path: Path) -> dict[str, str]:
    from dotenv.parser import parse_stream  # noqa: PLC0415 - only with --env-file

    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = list(parse_stream(file))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        raise UsageError(msg) from None
    found: dict[str, str] = {}
    for one in lines:
        if one.error or (one.key is not None and (one.value is None or "\0" in one.value)):
            msg = f"{path}:{one.original.line}: this is not KEY=VALUE"
            raise UsageError(msg)
        if one.key is not None and one.value is not None:
            found[one.key] = one.value
    return found
