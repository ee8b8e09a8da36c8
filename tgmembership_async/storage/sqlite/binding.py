"""The table with the binding of a component in a SQLite file: one row, from the first use by a bot on."""

import sqlite3
from typing import Final

from tgmembership_async.storage.binding import Binding, BindingTable


def binding_table(component: str) -> str:
    """Return the statement that makes the table."""
    return f"""
    CREATE TABLE {component}_binding (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        service TEXT NOT NULL, -- the origin of its URL; '' if nobody has told it
        bot_id INTEGER CHECK (bot_id > 0) -- NULL: several bots share it
    ) STRICT
    """


def _read(connection: sqlite3.Connection, component: str) -> Binding | None:
    row = connection.execute(f"SELECT service, bot_id FROM {component}_binding").fetchone()  # noqa: S608 - constant
    return None if row is None else Binding(*row)


def _write(connection: sqlite3.Connection, component: str, binding: Binding) -> None:
    connection.execute(
        f"INSERT OR IGNORE INTO {component}_binding VALUES (1, ?, ?)",  # noqa: S608 - constant
        (binding.service, binding.bot_id),
    )


BINDING: Final = BindingTable(_read, _write)
