"""A set of texts in a temporary database: constant memory, and a file that the system deletes."""

import sqlite3
from hashlib import blake2b
from typing import ClassVar, Final, Self

_CACHE: Final = -32_000
"""KiB of pages that SQLite keeps in memory; the others are in the file."""


class Temporary:
    """A temporary database with one table. Use it in a `with`."""

    _table: ClassVar[str]

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = {_CACHE}")
        self._database.execute("PRAGMA temp_store = FILE")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(self._table)
        self._database.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


class Seen(Temporary):
    """Remembers texts by their digests."""

    _table = "CREATE TABLE seen (text BLOB PRIMARY KEY) WITHOUT ROWID"

    def add(self, text: str) -> bool:
        """Return whether a text is new, and remember it."""
        done = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest(text),))
        return done.rowcount == 1


def digest(text: str) -> bytes:
    """Return the digest that stands for a text, of 16 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
