"""Many rows in few statements: each is written once, in order, and rows that change nothing are not counted."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tgmembership_async.storage.sqlite.bulk_statements import execute_rows


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as found:
        found.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT UNIQUE, body BLOB)")
        yield found


@pytest.mark.parametrize("count", [0, 1, 2, 3, 63, 64, 65, 127, 200])
def test_each_row_arrives_once_and_in_order(connection: sqlite3.Connection, count: int) -> None:
    rows = [(number, f"VALUES ({number})", b"\0") for number in range(count)]
    assert execute_rows(connection, "INSERT INTO word VALUES", rows) == count
    assert connection.execute("SELECT * FROM word ORDER BY rowid").fetchall() == rows


def test_only_what_changed_is_counted(connection: sqlite3.Connection) -> None:
    rows = [(number, str(number % 70), None) for number in range(100)]
    assert execute_rows(connection, "INSERT INTO word VALUES ON CONFLICT (text) DO NOTHING", rows) == 70
    changes = [(number, f"new {number}") for number in range(60, 80)]
    statement = "UPDATE word SET text = column2 FROM (VALUES) WHERE id = column1"
    assert execute_rows(connection, statement, changes) == 10
    assert connection.execute("SELECT count(*) FROM word WHERE text LIKE 'new %'").fetchone() == (10,)
