"""Many rows in few statements: each is written once, in order, and rows that change nothing are not counted."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.storage.sqlite.bulk_statements import change_rows, insert_rows

TABLE = "CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT UNIQUE, body BLOB)"


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as found:
        found.execute(TABLE)
        yield found


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 17, 63, 64, 65, 127, 200])
def test_each_row_arrives_once_and_in_order(connection: sqlite3.Connection, count: int) -> None:
    connection.execute("INSERT INTO word (id, text) VALUES (7, 'first')")
    rows = [(f"VALUES ({number})", b"\0") for number in range(count)]
    ids = insert_rows(connection, "word (text, body)", rows)
    assert ids == range(8, 8 + count)
    found = connection.execute("SELECT * FROM word WHERE id > 7 ORDER BY rowid").fetchall()
    assert found == [(id_, *row) for id_, row in zip(ids, rows, strict=True)]


@given(present=st.sets(st.integers(0, 99)), given=st.lists(st.integers(0, 99), max_size=99))
def test_the_ids_are_those_of_the_new_rows_only(present: set[int], given: list[int]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(TABLE)
        insert_rows(connection, "word (text)", [(str(number),) for number in present])
        into, skip = "word (text)", "ON CONFLICT (text) DO NOTHING"
        ids = insert_rows(connection, into, [(str(number),) for number in given], skip)
        new = [str(number) for number in dict.fromkeys(given) if number not in present]
        rows = connection.execute("SELECT id, text FROM word WHERE id > ? ORDER BY id", (len(present),)).fetchall()
        assert rows == list(zip(ids, new, strict=True))


def test_only_what_changed_is_counted(connection: sqlite3.Connection) -> None:
    insert_rows(connection, "word (text)", [(str(number),) for number in range(70)])
    changes = [(number, f"new {number}") for number in range(60, 80)]
    statement = "UPDATE word SET text = column2 FROM (VALUES) WHERE id = column1"
    assert change_rows(connection, statement, changes) == 11
    assert connection.execute("SELECT count(*) FROM word WHERE text LIKE 'new %'").fetchone() == (11,)


def test_few_statements_are_prepared_and_executed(connection: sqlite3.Connection) -> None:
    executed: list[str] = []
    connection.set_trace_callback(executed.append)
    for count in range(1, 65):
        insert_rows(connection, "word (body)", [(number,) for number in range(1, count + 1)])
    inserts = [one for one in executed if one.startswith("INSERT")]
    assert len(inserts) == 64
    assert len({one.count("(") for one in inserts}) < 20  # the numbers of rows
