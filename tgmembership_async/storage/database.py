"""The protocols of a storage and of its connections, for code that SQLite and PostgreSQL share."""

from typing import Any, Protocol, TypeVar


class Connection(Protocol):
    """What the statements need of a connection of `sqlite3` or psycopg."""

    def execute(self, statement: Any, values: Any, /) -> Any:
        """Run one statement and return its cursor."""
        ...


class Storage(Protocol):
    """What is the same in the storages of both databases."""

    @property
    def is_open(self) -> bool: ...  # noqa: D102 - as its class says
    async def aclose(self) -> None: ...  # noqa: D102 - as its class says


S = TypeVar("S", bound=Storage)
