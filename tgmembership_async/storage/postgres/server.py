"""A PostgreSQL server: check the connection string, connect, and keep the password out of every text."""

import re
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

from tgmembership_async.errors import UsageError
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, hides_arguments

Lane = Connection[tuple[Any, ...]]
"""A connection in autocommit mode, as `Server.connect` makes it; used by one thread at a time."""

_DEFAULTS: Final[Mapping[str, str | int]] = {
    "application_name": "tgmembership-async",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    # A lost network is detected within the lease of a worker, instead of TCP's two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_PREPARE: Final = """
    SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false),
        set_config('default_transaction_isolation', 'read committed', false), set_config('lock_timeout', '10s', false),
        CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END
"""
_LOOKS_LIKE: Final = (
    "a connection string looks like postgresql://user:password@host:5432/database, with '%40' for an '@' in the "
    "password, '%2F' for '/', '%3A' for ':' and '%25' for '%'"
)
SECRETS: Final = ("password", "sslpassword", "oauth_client_secret")
_IS_URI: Final = re.compile("postgres(ql)?://")


class Server:
    """The server and database of a connection string. `str()` names user, host, port and database, never the password.

    An empty string means libpq's environment variables (PGHOST, PGUSER and so on).
    """

    @hides_arguments
    def __init__(self, conninfo: str | Secret) -> None:
        self._parameters = {name: Secret(value) for name, value in _parsed(conninfo).items() if value}

    def __str__(self) -> str:
        user, host, port, name = (self._value(key) for key in ("user", "host", "port", "dbname"))
        place = "".join(
            (f"{user}@" if user else "", host or "", f":{port}" if port else "", f"/{name}" if name else "")
        )
        return f"postgresql://{place}"

    def __repr__(self) -> str:
        return f"<Server {self}>" if hasattr(self, "_parameters") else "<Server, not complete>"

    def connect(self) -> Lane:
        """Connect, in autocommit mode. Raises psycopg.Error, whose traceback may hold the password."""
        given = {name: value.reveal() for name, value in self._parameters.items()}
        lane = psycopg.connect(autocommit=True, **{**_DEFAULTS, **given})  # type: ignore[arg-type]  # names of libpq's
        try:
            lane.execute(_PREPARE)
        except BaseException:
            lane.close()
            raise
        return lane

    def scrub(self, text: str) -> str:
        """Return a text as one line, without the password."""
        masks = {secret: "***" for name in SECRETS if (secret := self._value(name))}
        return " ".join(Scrubber(masks).scrub_text(text).split())

    def _value(self, name: str) -> str | None:
        value = self._parameters.get(name)
        return None if value is None else value.reveal()


def _parsed(conninfo: object) -> dict[str, str]:
    text = conninfo.reveal() if isinstance(conninfo, Secret) else conninfo
    if not isinstance(text, str):
        msg = f"{_LOOKS_LIKE}; this is {type(conninfo).__name__}"
        raise UsageError(msg)
    try:
        found = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, ValueError):  # either may quote half of a password; UnicodeError is a ValueError
        found = None
    if found is None or "\0" in text or (_IS_URI.match(text) and _is_misread(found)):
        msg = f"this one cannot be read: {_LOOKS_LIKE}"
        raise UsageError(msg)
    return found


def _is_misread(found: dict[str, str]) -> bool:
    """Tell whether a part of a password with an unescaped '@', '/' or ':' was parsed as something that errors show."""
    numbers = found.get("port", "").replace(",", "")
    elsewhere = "".join(value for name, value in found.items() if name not in (*SECRETS, "user"))
    return "@" in elsewhere or not (not numbers or numbers.isdigit())
