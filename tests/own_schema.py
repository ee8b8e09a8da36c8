"""A separate schema for each test, on the PostgreSQL of TGM_POSTGRES or of this machine.

Without one these tests are skipped; with TGM_REQUIRE_SERVICES=1 they fail instead.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

SERVER = os.environ.get("TGM_POSTGRES", "postgresql://127.0.0.1:5432/test")
if password := urlsplit(SERVER).password:
    # Commands refuse it in their arguments.
    os.environ.setdefault("PGPASSWORD", unquote(password))
    SERVER = SERVER.replace(f":{password}@", "@")


@contextmanager
def own_schema(tail: str = "") -> Iterator[str]:
    """Yield the URL of an empty schema whose name ends with `tail`, and drop it at the end."""
    psycopg: Any = pytest.importorskip("psycopg")
    name = f"tgm_{secrets.token_hex(6)}"
    if tail:
        name = '"{}"'.format(f"{name}{tail}".replace('"', '""'))
    try:
        connection = psycopg.connect(SERVER, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        why = f"no PostgreSQL at {SERVER}: {error}"
        if os.environ.get("TGM_REQUIRE_SERVICES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    with connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            options = f"-csearch_path={name} -csynchronous_commit=off"
            yield f"{SERVER}{'&' if '?' in SERVER else '?'}options={quote(options)}"
        finally:
            connection.execute("SET client_min_messages = error")
            connection.execute(f"DROP SCHEMA {name} CASCADE")
