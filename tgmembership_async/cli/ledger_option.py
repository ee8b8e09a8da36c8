"""The option `--ledger`: the path of a SQLite file or the URL of a PostgreSQL server, and how to open either."""

import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast
from urllib.parse import unquote

import click
from attrs import field, frozen
from click.core import ParameterSource

from tgmembership_async.cli.output import hint, note
from tgmembership_async.errors import UsageError
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.protocol.gate import RateLimit

F = TypeVar("F", bound=Callable[..., Any])
_NO_LEDGER: Final = (
    "a ledger is a file or a URL: postgresql://user@host/database, with '%3F' for a '?' in the password, '%40' "
    "for '@', '%2F' for '/', '%3A' for ':' and '%25' for '%'; put './' before a file name that looks like a URL"
)
_LOOKS_LIKE_A_CONNECTION: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:/|postgres(?:ql)?:|[a-z_]+\s*=)", re.IGNORECASE)
_HOST: Final = r"(?:\[[0-9A-Fa-f:.%]+\]|[\w.%-]*)(?::\d*)?"
_URL: Final = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?:(?P<user>[^:@/?\s]*)(?::(?P<password>[^:@/?\s]*))?@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)(?P<path>/[^@/?\s]*)?(?:\?(?P<settings>[^?]*))?"
)
_SEEN_IN_PS: Final = (
    "the list of processes (ps) shows the command line, and with it the password in this URL: leave the password out, "
    "and set PGPASSWORD, ~/.pgpass or a service file; or set the whole URL as TGMEMBERSHIP_LEDGER, not as an argument"
)
What = Literal["ledger", "inbox"]
_TABLES: Final[Mapping[What, str]] = {"ledger": "tgm_grants", "inbox": "tgm_delivery"}
_SECRETS: Final = frozenset({"oauth_client_secret", "password", "scram_client_key", "scram_server_key", "sslpassword"})
_SHOWN: Final = frozenset(
    {"application_name", "connect_timeout", "dbname", "host", "hostaddr", "options", "port", "sslmode", "user"}
)


@frozen
class Server:
    """The connection URL of a PostgreSQL server; `str` returns it without the password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        parts = _URL.fullmatch(self.url)
        if parts is None:
            return "postgresql://"
        user = "" if parts["user"] is None else f"{parts['user']}@"
        pairs = (parts["settings"] or "").split("&")
        settings = "&".join(pair for pair in pairs if unquote(pair.partition("=")[0]) in _SHOWN)
        return f"{parts['scheme']}{user}{parts['hosts']}{parts['path'] or ''}{settings and '?'}{settings}"

    @property
    def has_secret(self) -> bool:
        """Return whether the URL itself contains a password or another secret."""
        parts = _URL.fullmatch(self.url)
        if parts is None or parts["password"]:
            return True
        return any(unquote(pair.partition("=")[0]) in _SECRETS for pair in (parts["settings"] or "").split("&"))


Place = Path | Server


def place(value: str, *, exists: bool = False, in_ps: bool = True) -> Place:
    """Return the Server or the Path of a value. With `exists`, a file must exist.

    A value that looks like connection settings is never taken for a file name, which could contain a password. A value
    of the command line, which the list of processes shows (`in_ps`), must not contain a password.
    """
    if _LOOKS_LIKE_A_CONNECTION.match(value):
        if not _is_readable(value):
            raise click.BadParameter(_NO_LEDGER)
        server = Server(value)
        if in_ps and server.has_secret:
            raise click.BadParameter(_SEEN_IN_PS)
        return server
    return Path(str(click.Path(exists=exists, dir_okay=False).convert(value, None, None)))


def _is_readable(url: str) -> bool:
    """Return whether a URL is unambiguous: after a bare '?' or '/' a password's rest would be a setting or a name."""
    parts = _URL.fullmatch(url)
    if parts is None or not url.isprintable():
        return False
    pairs = [pair.partition("=") for pair in parts["settings"].split("&")] if parts["settings"] else []
    return all(equals and ("@" not in value or unquote(name) not in _SHOWN) for name, equals, value in pairs)


def as_place(*, exists: bool) -> Callable[[click.Context, click.Parameter, str | None], Place | None]:
    """Return a click callback that makes a Place of an option's value; with `exists`, a file must exist."""

    def placed(ctx: click.Context, param: click.Parameter, value: str | None) -> Place | None:
        in_ps = ctx.get_parameter_source(str(param.name)) is not ParameterSource.ENVIRONMENT
        return None if value is None else place(value, exists=exists, in_ps=in_ps)

    return placed


def ledger_option(help: str, *, required: bool = False, exists: bool = False) -> Callable[[F], F]:  # noqa: A002 - click's
    """Return the option `--ledger`. Its value is a Place or None; with `exists`, a file must exist."""
    return click.option(
        "--ledger",
        metavar="FILE|postgresql://...",
        envvar="TGMEMBERSHIP_LEDGER",
        show_envvar=True,
        help=help,
        required=required,
        callback=as_place(exists=exists),
    )


def ledger_argument(help: str, *, exists: bool = False) -> Callable[[F], F]:  # noqa: A002 - click's
    """Return the ledger as an argument, which may be given as `--ledger` too, of a command that has no other one."""
    argument = click.argument("argument", metavar="[LEDGER]", required=False, callback=as_place(exists=exists))
    option = ledger_option(help, exists=exists)

    def both(function: F) -> F:
        @wraps(function)
        def run(*, argument: Place | None, ledger: Place | None, **values: Any) -> Any:
            typed = click.get_current_context().get_parameter_source("ledger") is ParameterSource.COMMANDLINE
            found = argument or ledger
            if found is None or (argument is not None and typed):
                msg = "name one ledger: --ledger FILE, or --ledger postgresql://user@host/database"
                raise UsageError(msg)
            return function(ledger=found, **values)

        return option(argument(cast("F", run)))

    return both


def server(place: Place | None, what: str) -> Server:
    """Return the place if it is a PostgreSQL server. Raises UsageError otherwise; `what` names what needs one."""
    if not isinstance(place, Server):
        msg = f"{what} requires a ledger on a server: --ledger postgresql://user@host/database"
        raise UsageError(msg)
    return place


def ledger_at(place: Place, *, owner: bool = True) -> Ledger:
    """Return the closed ledger at a place. Sending from a file requires `owner`; a server ignores it."""
    if isinstance(place, Path):
        return SqliteLedger(place, owner=owner)
    from tgmembership_async.grants import PostgresLedger  # noqa: PLC0415 - an extra, and slow to load

    return PostgresLedger(place.url)


rate_option: Final = click.option(
    "--rate",
    type=click.IntRange(1),
    help="Maximum calls per second of all workers of one ledger.  [default: unlimited]",
)


def pace(place: Place | None, rate: int | None) -> dict[str, Any]:
    """Return Session options for a rate limit; on a server, all its workers share the limit and all pauses."""
    options: dict[str, Any] = {"rate_limit": None if rate is None else RateLimit(rate, 1)}
    if isinstance(place, Server):
        ledger_at(place)  # raises if the extra is missing
        from tgmembership_async.storage.postgres.gate import PostgresGate  # noqa: PLC0415 - an extra, and slow to load

        options["gate"] = PostgresGate(place.url)
    return options


def is_there(place: Server, what: What = "ledger") -> bool:
    """Return whether a database has a ledger or inbox. Raises UsageError or StorageError if it does not answer."""
    ledger_at(place)  # raises if the extra is missing
    from psycopg import Error  # noqa: PLC0415 - an extra, and slow to load

    from tgmembership_async.storage.postgres.errors import postgres_error  # noqa: PLC0415 - needs the extra
    from tgmembership_async.storage.postgres.server import Server as Connecting  # noqa: PLC0415 - likewise

    connecting = Connecting(place.url)
    try:
        with closing(connecting.connect()) as lane:
            return lane.execute("SELECT to_regclass(%s)", [_TABLES[what]]).fetchone() != (None,)
    except Error as error:
        failure = postgres_error(connecting, error)
    raise failure


def check_there(place: Place, what: What = "ledger") -> None:
    """Raise UsageError if a database has no ledger or inbox, instead of creating one under a mistyped name."""
    if isinstance(place, Server) and not is_there(place, what):
        otherwise = f", or create one: {hint('ledger', 'init', '--ledger', place)}" if what == "ledger" else ""
        msg = f"{place} has no {what}: check the name{otherwise}"
        raise UsageError(msg)


class _Noted(logging.Handler):
    """Prints messages as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        note(record.getMessage())


_NOTED: Final = _Noted()


def only_note_restores() -> None:
    """Show no log messages of the package but the warning of a ledger that was restored from an older copy."""
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())
    logging.getLogger("tgmembership_async.grants.restored").addHandler(_NOTED)


@asynccontextmanager
async def opened(place: Place, *, owner: bool = True) -> AsyncGenerator[Ledger]:
    """Open the ledger at a place, and close it at the end."""
    ledger = ledger_at(place, owner=owner)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.aclose()
