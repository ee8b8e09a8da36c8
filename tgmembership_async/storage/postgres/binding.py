"""The table with the binding of a component in PostgreSQL: one row, from the first use by a bot on."""

from typing import Final

from tgmembership_async.storage.binding import Binding, BindingTable
from tgmembership_async.storage.postgres.server import Lane


def binding_table(component: str) -> str:
    """Return the statement that makes the table."""
    return f"""
    CREATE TABLE tgm_{component}_binding (
        id integer PRIMARY KEY CHECK (id = 1),
        service text NOT NULL, -- the origin of its URL; '' if nobody has told it
        bot_id bigint CHECK (bot_id > 0) -- NULL: several bots share it
    )
    """


def _read(lane: Lane, component: str) -> Binding | None:
    statement = f"SELECT service, bot_id FROM tgm_{component}_binding"  # noqa: S608 - constant
    row = lane.execute(statement.encode()).fetchone()
    return None if row is None else Binding(*row)


def _write(lane: Lane, component: str, binding: Binding) -> None:
    statement = f"INSERT INTO tgm_{component}_binding VALUES (1, %s, %s) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - constant
    lane.execute(statement.encode(), (binding.service, binding.bot_id))


BINDING: Final = BindingTable(_read, _write)
