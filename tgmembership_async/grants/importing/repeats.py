"""Find the refs that a file contains twice, in constant memory: digests in a temporary SQLite database."""

import sqlite3
from hashlib import blake2b
from typing import Final, Self

from tgmembership_async.grants.model import GrantRequest

_CACHE: Final = -32_000
"""KiB of pages that SQLite keeps in memory; the others are in a file that the system deletes."""


class Repeats:
    """Stores a digest of each ref, its plan and member, and its line. Use it in a `with`."""

    def __enter__(self) -> Self:
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute(f"PRAGMA cache_size = {_CACHE}")
        self._seen.execute("PRAGMA temp_store = FILE")
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("PRAGMA synchronous = OFF")
        self._seen.execute("CREATE TABLE seen (ref BLOB PRIMARY KEY, wish BLOB, line INT) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()

    def first(self, request: GrantRequest, line: int) -> tuple[int, bool] | None:
        """Return None for a new ref; else the line where it stood first, and whether for the same plan and member."""
        ref, wish = _digest(request.ref), _digest(f"{request.plan_id} {request.member_id}")
        if self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (ref, wish, line)).rowcount:
            return None
        found, where = self._seen.execute("SELECT wish, line FROM seen WHERE ref = ?", (ref,)).fetchone()
        return where, found == wish


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
