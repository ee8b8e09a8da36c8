"""A component: a part of the package that keeps tables in a database of any kind."""

from attrs import frozen


@frozen
class Component:
    """A part of the package with tables of its own; `migrations[n]` are the statements from its version n to n + 1.

    A migration that has been released is never changed; later changes are further migrations.
    """

    name: str
    migrations: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        """Return the version that this code reads and writes."""
        return len(self.migrations)

    def entering(self, database: str) -> str:
        """Return the line that opens it, for error messages: `async with SqliteLedger(...) as ledger:`."""
        return f"`async with {database}{self.name.capitalize()}(...) as {self.name}:`"
