"""Read and write many rows with few statements: Python's other threads run while SQLite executes one."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64)
"""The numbers of rows that statements are prepared for: each needs a statement of its own."""


def change_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> int:
    """Execute a statement with rows of equal length in place of `VALUES`; return the number of rows that changed.

    The statement must ignore rows of NULL: they fill up the rows to a number for which it was prepared before.

    Convert members of a StrEnum to `str` before: for any other type sqlite3 searches an adapter, which takes longer
    than writing the value.
    """
    return sum(cursor.rowcount for cursor in _execute(connection, statement, rows))


def select_rows(
    connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]
) -> list[tuple[Any, ...]]:
    """Return all that a query selects with rows in place of `VALUES`; see `change_rows`."""
    return [found for cursor in _execute(connection, statement, rows) for found in cursor.fetchall()]


def insert_rows(
    connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[object]], on_conflict: str = ""
) -> range:
    """Insert rows whose first value is never None; return the ids of the new ones, which follow one another.

    `into` is a table with its columns, without the id. See `change_rows`.
    """
    statement = f"INSERT INTO {into} SELECT * FROM (VALUES) WHERE column1 IS NOT NULL {on_conflict}"  # noqa: S608 - constants
    number, last = 0, 0
    for cursor in _execute(connection, statement, rows):
        number, last = number + cursor.rowcount, cursor.lastrowid or 0
    return range(last - number + 1, last + 1)


def _execute(
    connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]
) -> Iterator[sqlite3.Cursor]:
    for done in range(0, len(rows), _SIZES[-1]):
        some = rows[done : done + _SIZES[-1]]
        size, width = _SIZES[bisect_left(_SIZES, len(some))], len(some[0])
        values = [*chain.from_iterable(some), *[None] * ((size - len(some)) * width)]
        yield connection.execute(_with_rows(statement, size, width), values)


@lru_cache(maxsize=128)
def _with_rows(statement: str, rows: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("VALUES", f"VALUES {', '.join([row] * rows)}")
