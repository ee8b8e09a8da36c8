"""The components that keep tables in a schema, and their versions. Any number of processes may open it at once."""

from collections.abc import Iterable
from typing import Final

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.component import Component
from tgmembership_async.storage.postgres.server import Lane, Server

_TURN: Final = 0x54474D41  # "TGMA": the advisory lock that is held while tables are created
_CREATE: Final = """
    CREATE TABLE IF NOT EXISTS tgm_component (
        name text PRIMARY KEY CHECK (name <> ''),
        version integer NOT NULL CHECK (version > 0)
    )
"""
_HOME: Final = """
    SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = to_regclass('tgm_component')
"""


def migrate(lane: Lane, server: Server, components: Iterable[Component]) -> str:
    """Bring the tables of all components up to their versions, and return the quoted name of their schema.

    Tables that are up to date need no right to create tables. Raises UsageError for tables of a newer package.
    """
    (encoding,) = _row(lane, "SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        msg = f"{server}: this database stores text as {encoding}, not every name fits: use one with encoding UTF8"
        raise UsageError(msg)
    outdated = _outdated(lane, server, components)
    if outdated:
        with lane.transaction():
            lane.execute("SELECT pg_advisory_xact_lock(%s)", (_TURN,))
            _apply_migrations(lane, server, outdated)
    (home,) = _row(lane, _HOME)
    return str(home)


def _apply_migrations(lane: Lane, server: Server, components: Iterable[Component]) -> None:
    # New tables go into the schema of the existing ones, even if that is not the first schema of this search_path.
    (found,) = lane.execute(_HOME).fetchone() or (None,)
    if found is not None:
        lane.execute("SELECT set_config('search_path', %s, true)", (found,))
    lane.execute(_CREATE)
    versions = _versions(lane)
    for component in _outdated(lane, server, components):
        for migration in component.migrations[versions.get(component.name, 0) :]:
            for statement in migration:
                lane.execute(statement.encode())
        lane.execute(
            "INSERT INTO tgm_component (name, version) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            (component.name, component.version),
        )


def _outdated(lane: Lane, server: Server, components: Iterable[Component]) -> list[Component]:
    """Return the components whose tables are missing, or older than the code."""
    versions = _versions(lane)
    for component in components:
        if versions.get(component.name, 0) > component.version:
            msg = (
                f"{server}: the tables of the {component.name} are version {versions[component.name]}, written by a "
                f"newer tgmembership-async, and were left as they are: update the package"
            )
            raise UsageError(msg)
    return [component for component in components if versions.get(component.name, 0) < component.version]


def _versions(lane: Lane) -> dict[str, int]:
    (table,) = _row(lane, "SELECT to_regclass('tgm_component')")
    return {} if table is None else dict(lane.execute("SELECT name, version FROM tgm_component").fetchall())


def _row(lane: Lane, statement: str) -> tuple[object, ...]:
    row = lane.execute(statement.encode()).fetchone()
    assert row is not None  # noqa: S101 - one row, always
    return row
