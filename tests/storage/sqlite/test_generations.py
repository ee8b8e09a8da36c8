"""Older copies and copies of a file in use are recognized, and no healthy file is refused."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from forked import Forked
from note_table import NOTES, OTHERS, add, opened, python, texts

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.sqlite import backups, generations
from tgmembership_async.storage.sqlite.database import SqliteStorage
from tgmembership_async.storage.sqlite.generations import Gap, gaps
from tgmembership_async.storage.sqlite.owner_lock import read_facts_of


@pytest.fixture
def path(quick_path: Path) -> Path:
    return quick_path / "a.db"


def write(path: Path, *notes: str) -> None:
    async def scenario() -> None:
        async with opened(path) as storage:
            for note in notes:
                await storage.write(add(note))

    anyio.run(scenario)


def read(path: Path, *, restored: bool = False) -> tuple[list[str], list[Gap]]:
    async def scenario() -> tuple[list[str], list[Gap]]:
        storage = SqliteStorage(path, NOTES, restored=restored)
        await storage.open()
        try:
            return await storage.read(texts), await storage.read(gaps)
        finally:
            await storage.aclose()

    return anyio.run(scenario)


def refusal(path: Path) -> str:
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError) as caught:
        read(path)
    assert (path.read_bytes() if path.exists() else None) == before
    return str(caught.value)


def test_an_older_copy_is_refused_with_the_gap_and_what_to_do(path: Path) -> None:
    write(path, "before")
    shutil.copy(path, path.with_name("copy"))
    write(path, "after")
    shutil.copy(path.with_name("copy"), path)
    told = refusal(path)
    assert "is an older copy: it was last written at 20" in told
    assert "and the file used here at 20" in told
    assert f"tgmembership ledger accept-restore --ledger {path}" in told
    assert "restored=True" in told
    refusal(path)


def test_an_older_copy_is_accepted_once_and_its_gap_is_kept(path: Path) -> None:
    began = datetime.now(UTC)
    write(path, "before")
    shutil.copy(path, path.with_name("copy"))
    write(path, "after")
    shutil.copy(path, path.with_name("latest"))
    shutil.copy(path.with_name("copy"), path)
    notes, [gap] = read(path, restored=True)
    assert notes == ["before"]
    assert gap.begins is not None
    assert began < gap.begins < gap.ends < gap.accepted_at + timedelta(seconds=generations.INTERVAL)
    assert (gap.begins in gap, gap.ends in gap) == (True, True)
    assert (gap.begins - timedelta(seconds=1) in gap, gap.ends + timedelta(seconds=1) in gap) == (False, False)
    assert read(path) == (["before"], [gap])
    write(path, "since")
    assert read(path, restored=True) == (["before", "since"], [gap]), "there is nothing to accept"
    shutil.copy(path.with_name("latest"), path)
    assert "older copy" in refusal(path), "the other line of history is behind now"


def test_the_latest_copy_is_no_older_one(path: Path) -> None:
    write(path, "a")
    for _ in range(3):
        shutil.copy(path, path.with_name("copy"))
        read(path)
        path.unlink()
        shutil.copy(path.with_name("copy"), path)
        assert read(path) == (["a"], [])


def test_a_file_that_is_gone_is_missed(path: Path) -> None:
    write(path, "a")
    path.rename(path.with_name("elsewhere"))
    assert "is missing, and was last written at 20" in refusal(path)
    assert not path.exists()
    path.touch()
    assert "is empty, and was last written at 20" in refusal(path)
    notes, [gap] = read(path, restored=True)
    assert (notes, gap.begins) == ([], None)
    assert datetime(1970, 1, 1, tzinfo=UTC) in gap
    path.unlink()
    path.with_name("a.db.lock").unlink()
    write(path, "a new one")


def test_another_file_is_no_copy_of_the_one_that_was_here(path: Path) -> None:
    write(path, "a")
    write(path.with_name("b.db"), "b")
    path.with_name("b.db").rename(path)
    assert "another file than the one that was used here before" in refusal(path)
    notes, [gap] = read(path, restored=True)
    assert (notes, gap.begins) == (["b"], None)


def test_a_copy_from_before_anything_was_counted_is_older(path: Path) -> None:
    write(path, "a")
    shutil.copy(path, path.with_name("copy"))
    with closing(sqlite3.connect(path.with_name("copy"))) as connection:
        connection.executescript("DROP TABLE generation; DROP TABLE gap; DELETE FROM component WHERE name = 'storage'")
    assert read(path.with_name("copy"))[0] == ["a"], "without a lock file beside it that is any old file"
    with closing(sqlite3.connect(path.with_name("copy"))) as connection:
        connection.executescript(
            "DROP TABLE IF EXISTS generation; DROP TABLE IF EXISTS gap; DELETE FROM component WHERE name = 'storage'"
        )
    shutil.copy(path.with_name("copy"), path)
    assert "an older copy: it was last written at an unknown time" in refusal(path)
    assert read(path, restored=True)[0] == ["a"]
    assert read(path)[0] == ["a"]


def test_a_file_that_moves_with_its_lock_is_watched_and_without_it_opens(path: Path) -> None:
    write(path, "a")
    shutil.copy(path, path.with_name("copy"))
    write(path, "b")
    moved = path.with_name("moved.db")
    path.rename(moved)
    path.with_name("a.db.lock").rename(moved.with_name("moved.db.lock"))
    assert read(moved)[0] == ["a", "b"]
    shutil.copy(path.with_name("copy"), moved)
    assert "older copy" in refusal(moved)
    moved.with_name("moved.db.lock").unlink()
    assert read(moved)[0] == ["a"], "the honest limit"


def test_a_lock_file_that_tells_nothing_is_no_reason_to_refuse(path: Path) -> None:
    write(path, "a")
    whole = path.with_name("a.db.lock").read_bytes()
    for content in (b"", b"1234\n", b"\0" * 1024, whole[:700], whole[:512] + b'{"file": 1, "number": "x"}'.ljust(512)):
        path.with_name("a.db.lock").write_bytes(content)
        assert read(path) == (["a"], [])
    write(path, "b")
    assert read_facts_of(path) is not None


def test_a_burst_is_counted_once_and_its_end_when_the_file_is_closed(path: Path) -> None:
    def number(connection: sqlite3.Connection) -> int:
        [found] = connection.execute("SELECT number FROM generation").fetchone()
        return int(found)

    async def scenario() -> None:
        async with opened(path) as storage:
            for one in range(20):
                await storage.write(add(str(one)))
            assert await storage.read(number) <= 2
            seen = await storage.read(number)
        async with opened(path, owner=False) as storage:
            assert await storage.read(number) == seen + 1

    anyio.run(scenario)


def test_looking_at_a_file_does_not_change_it(path: Path) -> None:
    write(path, "a")
    before = path.read_bytes()
    read(path)
    assert path.read_bytes() == before


def test_a_crash_between_the_two_counters_refuses_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "a")
    outside = path.with_name("a.db.lock").read_bytes()
    monkeypatch.setattr(generations, "INTERVAL", 0.0)
    write(path, "b", "c", "d")
    path.with_name("a.db.lock").write_bytes(outside)  # the file's counter is ahead by some
    assert read(path) == (["a", "b", "c", "d"], [])


def test_a_commit_that_fails_counts_nothing(path: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO reply VALUES (999)")  # what only the COMMIT refuses

    async def scenario() -> None:
        async with opened(path) as storage:
            with pytest.raises(StorageError):
                await storage.write(fail)
            before = read_facts_of(path)
            await storage.write(add("a"))
            assert before is None or read_facts_of(path) is not None

    anyio.run(scenario)
    assert read(path) == (["a"], [])


def test_a_copy_that_lacks_what_others_wrote_beside_the_owner_is_older(path: Path) -> None:
    write(path, "a")
    shutil.copy(path, path.with_name("copy"))
    write_as_guest(path, "b")
    assert read(path) == (["a", "b"], [])
    shutil.copy(path.with_name("copy"), path)
    assert "older copy" in refusal(path)
    write_as_guest(path, *map(str, range(5)))
    assert "older copy" in refusal(path), "changes of the older copy do not catch up with the latest"


def write_as_guest(path: Path, *notes: str) -> None:
    async def scenario() -> None:
        for note in notes:
            async with opened(path, owner=False) as storage:
                await storage.write(add(note))

    anyio.run(scenario)


def test_an_owner_and_others_count_the_same_changes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    async def scenario() -> None:
        async with opened(path) as owner, opened(path, owner=False) as beside:
            for one in range(6):
                await (beside if one % 3 else owner).write(add(str(one)))
                numbers.append(await owner.read(number))

    def number(connection: sqlite3.Connection) -> int:
        [found] = connection.execute("SELECT number FROM generation").fetchone()
        facts = read_facts_of(path)
        assert facts is None or facts["number"] <= found
        return int(found)

    monkeypatch.setattr(generations, "INTERVAL", 0.0)
    anyio.run(scenario)
    assert numbers == sorted(set(numbers)), "no change is counted under a number that another one has"
    assert len(read(path)[0]) == 6


def test_a_guest_leaves_no_lock_file_where_there_is_none(path: Path) -> None:
    write(path, "a")
    path.with_name("a.db.lock").unlink()
    write_as_guest(path, "b")
    assert not path.with_name("a.db.lock").exists()
    assert read(path)[0] == ["a", "b"]


BUSY = """
import anyio, itertools
from note_table import add, opened
from tgmembership_async.storage.sqlite import generations

generations.INTERVAL = float(sys.argv[2])

async def main():
    async with opened(sys.argv[1]) as storage:
        for number in itertools.count():
            await storage.write(add(f"{os.getpid()}-{number}"))
            print(number, flush=True)

import os
anyio.run(main)
"""


@contextmanager
def busy_owner(path: Path, interval: float) -> Iterator["subprocess.Popen[str]"]:
    with Forked(python(BUSY, path, interval), stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline()
            yield owner
        finally:
            owner.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_kill_at_any_moment_leaves_a_file_that_opens_and_a_copy_that_does_not(path: Path) -> None:
    kept = 0
    for round_ in range(5):
        with busy_owner(path, 0.0) as owner:
            if round_ == 1:
                anyio.run(back_up, path, path.with_name("copy"))
            threading.Event().wait(round_ / 100)
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)
        notes, found = read(path)
        assert (len(notes) > kept, found) == (True, [])
        kept = len(notes)
    shutil.copy(path.with_name("copy"), path)
    assert "older copy" in refusal(path)


async def back_up(source: Path, target: Path) -> None:
    async with opened(source, owner=False) as storage:
        await storage.backup(target)


def with_an_old_index(path: Path) -> None:
    """Restore an older page of the unique index, as a copy of a file in use may have it."""
    with closing(sqlite3.connect(path)) as connection:
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE type = 'index'").fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    place = slice((root - 1) * size, root * size)
    old = path.read_bytes()[place]
    write(path, "lacking")
    whole = bytearray(path.read_bytes())
    whole[place] = old
    path.write_bytes(whole)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE generation SET closed = 0")
        connection.commit()
        [verdict] = connection.execute("PRAGMA quick_check").fetchone()
        # Newer releases of SQLite count the entries of an index too.
        assert verdict in ("ok", "wrong # of entries in index sqlite_autoindex_note_1")


def test_an_index_that_lacks_a_row_is_found_when_the_file_is_opened(path: Path) -> None:
    write(path, *map(str, range(20)))
    with_an_old_index(path)
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"(missing from|wrong # of entries in) index.*Back up and restore"
        ) as caught:
            read(path)
    assert "damaged" in str(caught.value)


def test_a_file_that_was_closed_by_its_owner_is_not_checked_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr("tgmembership_async.storage.sqlite.writer.check_indexes", lambda _, path: checked.append(path))
    write(path, "a")
    checked.clear()
    read(path)
    write(path, "b")
    assert checked == []
    path.with_name("a.db.lock").unlink()
    read(path)
    assert checked == [path]


def test_a_backup_is_whole_private_and_overwrites_nothing(path: Path) -> None:
    target = path.with_name("backup.db")

    async def scenario() -> None:
        async with opened(path) as owner, opened(path, OTHERS), opened(path, owner=False) as beside:
            await owner.write(add("a"))
            await beside.backup(target)
            for storage in (owner, beside):
                with pytest.raises(UsageError, match=r"backup\.db is there already"):
                    await storage.backup(target)
            await owner.write(add("b"))
            with pytest.raises(UsageError, match="cannot be created: No such file"):
                await owner.backup(path.with_name("nowhere") / "backup.db")
        with pytest.raises(UsageError, match="is not open"):
            await beside.backup(path.with_name("again.db"))

    anyio.run(scenario)
    assert os.name != "posix" or target.stat().st_mode & 0o777 == 0o600
    assert read(target)[0] == ["a"]


def test_a_backup_that_fails_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgmembership_async.storage.sqlite.backups._WAITS", 0.0)
    write(path, "a")

    async def scenario() -> None:
        async with opened(path, owner=False) as beside:
            with closing(sqlite3.connect(path)) as other:
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(StorageError, match="locked"):
                    await anyio.to_thread.run_sync(backups.back_up, beside.path, path.with_name("backup.db"))
        assert not path.with_name("backup.db").exists()

    monkeypatch.setattr("tgmembership_async.storage.sqlite.schema._OTHERS_WAIT", 0.05)
    anyio.run(scenario)


def test_a_backup_of_a_busy_owner_is_whole(path: Path) -> None:
    with busy_owner(path, 1.0) as owner:
        for number in range(3):
            anyio.run(back_up, path, path.with_name(f"{number}.db"))
        assert owner.poll() is None
    assert len(read(path.with_name("0.db"))[0]) <= len(read(path.with_name("2.db"))[0])


def test_what_a_lock_file_says_holds_no_text_of_the_rows(path: Path) -> None:
    write(path, "a secret note")
    facts = read_facts_of(path)
    assert facts is not None
    assert facts.keys() == {"file", "number", "written_at", "closed"}
    assert "secret" not in json.dumps(dict(facts))
