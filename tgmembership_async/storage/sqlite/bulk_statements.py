"""Write many rows with few statements: Python's other threads run while SQLite executes one."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

_MOST_AT_A_TIME: Final = 64


def execute_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> int:
    """Execute a statement with rows of equal length in place of `VALUES`; return the number of rows that changed.

    Convert members of a StrEnum to `str` before: for any other type sqlite3 searches an adapter, which takes longer
    than writing the value.
    """
    changed, done = 0, 0
    while left := len(rows) - done:
        size = min(1 << left.bit_length() - 1, _MOST_AT_A_TIME)  # few sizes: each needs a statement of its own
        values = [*chain.from_iterable(rows[done : done + size])]
        changed += connection.execute(_with_rows(statement, size, len(values) // size), values).rowcount
        done += size
    return changed


@lru_cache(maxsize=128)
def _with_rows(statement: str, rows: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("VALUES", f"VALUES {', '.join([row] * rows)}")
