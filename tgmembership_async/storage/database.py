"""The protocols of a storage and of its connections, for code that SQLite and PostgreSQL share."""

from typing import Any, Protocol, TypeVar


class Connection(Protocol):
    """The part of a connection of `sqlite3` or psycopg that the statements use."""

    def execute(self, statement: Any, values: Any, /) -> Any:
        """Run one statement and return its cursor."""
        ...


class Storage(Protocol):
    """The common part of the storages of both databases."""

    @property
    def is_open(self) -> bool: ...  # noqa: D102 - as its class says
    async def aclose(self) -> None: ...  # noqa: D102 - as its class says


S = TypeVar("S", bound=Storage)
