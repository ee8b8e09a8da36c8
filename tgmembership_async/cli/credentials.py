"""The bot's credentials: from the environment, from a file, or asked for; never from a flag, which others can see."""

import os
import sys
from pathlib import Path
from typing import Any, Final, Unpack

import click

from tgmembership_async import settings
from tgmembership_async.errors import UsageError
from tgmembership_async.options import SessionOptions
from tgmembership_async.protocol.wire import Account
from tgmembership_async.session import Session
from tgmembership_async.values.secret import hides_arguments

PREFIX: Final = "TGMEMBERSHIP_"
_BOT_ID: Final = f"{PREFIX}BOT_ID"
_KEYS: Final = (f"{PREFIX}API_KEY", f"{PREFIX}API_KEY_FILE")


def session(**options: Unpack[SessionOptions]) -> Session:
    """Return a Session for the bot that the environment names; on a terminal, ask for what it does not say."""
    arguments: dict[str, Any] = {**_given(), **options}
    return Session(**arguments)


def account() -> Account:
    """Return the checked account of that bot, or raise UsageError."""
    return settings.account(**_given())


@hides_arguments
def _given() -> dict[str, Any]:
    if sys.stdin.isatty() and sys.stderr.isatty():
        # What was answered is kept in the environment of this process, so that nobody is asked twice.
        if not os.environ.get(_BOT_ID):
            os.environ[_BOT_ID] = click.prompt("Bot id", err=True)
        if not any(os.environ.get(name) for name in _KEYS):
            os.environ[_KEYS[0]] = click.prompt("API key (it is not shown)", hide_input=True, err=True)
    return settings.from_environment(PREFIX)


@hides_arguments
def load(path: Path) -> None:
    """Take the variables of a file of `KEY=VALUE` lines into the environment, where they win over what is there."""
    found = _read(path)
    if any(found.get(name) for name in _KEYS):
        for name in _KEYS:  # one in the file and the other around it would be two keys
            os.environ.pop(name, None)
    os.environ.update(found)


def _read(path: Path) -> dict[str, str]:
    from dotenv.parser import parse_stream  # noqa: PLC0415 - only where a file is named

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
