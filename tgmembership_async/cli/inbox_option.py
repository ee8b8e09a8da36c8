"""The option `--inbox`: the path of a SQLite file or the URL of a PostgreSQL server, opened beside its owner."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tgmembership_async.cli.ledger_option import Place, as_place, check_there

if TYPE_CHECKING:
    from tgmembership_async.webhooks import PostgresInbox, SqliteInbox

F = TypeVar("F", bound=Callable[..., Any])


def inbox_option(help: str) -> Callable[[F], F]:  # noqa: A002 - click's
    """Return the option `--inbox`. Its value is a Place or None; a file must exist."""
    return click.option(
        "--inbox",
        metavar="FILE|postgresql://...",
        envvar="TGMEMBERSHIP_INBOX",
        show_envvar=True,
        callback=as_place(exists=True),
        help=help,
    )


def opened_inbox(place: Place) -> "SqliteInbox | PostgresInbox":
    """Return the closed inbox at a place, to read and decide. Raises UsageError if a database has none."""
    if isinstance(place, Path):
        from tgmembership_async.webhooks import SqliteInbox  # noqa: PLC0415 - one of two alternatives

        return SqliteInbox(place, owner=False)
    check_there(place, "inbox")
    from tgmembership_async.webhooks import PostgresInbox  # noqa: PLC0415 - an extra

    return PostgresInbox(place.url)
