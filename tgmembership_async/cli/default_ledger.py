"""The default ledger: one for each bot and service, independent of the name of the members file."""

import re
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

from tgmembership_async.cli.credentials import account
from tgmembership_async.cli.ledger_option import Place
from tgmembership_async.cli.output import hint, note
from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.wire import BotAccount

_OLD: Final = ".grants.db"


def ledger_for(members: Path, named: Place | None, *, make: bool = True) -> Place:
    """Return the named ledger, or the default one, whose path is printed on stderr.

    With `make`, its folder is created. Raises UsageError if there is a ledger of an older version next to the members
    file, because its grants would be sent again.
    """
    if named is not None:
        return named
    default = default_ledger(account())
    old = [file for file in sorted(members.parent.glob(f"*{_OLD}")) if file.is_file()]
    if old:
        shown = ", ".join(map(str, old))
        msg = (
            f"{shown}: the ledger of an earlier version lies beside {members.name}, and it has the grants made so far. "
            f"Continue with it: {hint('provision', members, '--ledger', old[0])}; or copy it, and move it away: "
            f"{hint('ledger', 'copy', old[0], default)}"
        )
        raise UsageError(msg)
    try:
        if make:
            default.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{default.parent} cannot be made: {error.strerror}; name a ledger with --ledger FILE"
        raise UsageError(msg) from None
    note(f"Ledger: {default}")
    return default


def default_ledger(bot: BotAccount) -> Path:
    """Return the file in the user's data folder for a bot at a service."""
    service = re.sub(r"[^a-z0-9.-]+", "_", bot.origin.removeprefix("https://").lower())
    return user_data_path("tgmembership", appauthor=False) / f"grants-{bot.bot_id}-{service}.db"
