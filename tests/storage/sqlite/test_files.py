"""Which files are opened and how they are created; another program's file stays unchanged."""

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_SECRET
from note_table import NOTES, OLD_NOTES, OTHERS, add, opened, python, texts

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.grants import SqliteLedger
from tgmembership_async.storage.sqlite import owner_lock, schema
from tgmembership_async.storage.sqlite.database import Component, SqliteStorage
from tgmembership_async.webhooks import SqliteInbox

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

as_whom = pytest.mark.parametrize("owner", [True, False], ids=["owner", "other"])
posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.suffix != ".lock"}


def refusal(path: Path, component: Component = NOTES, *, owner: bool = True) -> str:
    """Return the error of opening a file, after checking that the file and its folder did not change."""
    before = contents(path.parent)
    with pytest.raises((UsageError, StorageError)) as caught:
        anyio.run(SqliteStorage(path, component, owner=owner).open)
    assert contents(path.parent) == before
    return f"{type(caught.value).__name__}: {caught.value}"


def filled(path: Path, component: Component = NOTES, rows: int = 3) -> Path:
    async def fill() -> None:
        async with opened(path, component) as storage:
            await storage.write(lambda connection: [add(f"{number:0100}")(connection) for number in range(rows)])

    anyio.run(fill)
    return path


@posix
def test_a_file_its_journal_and_its_lock_are_for_their_owner_alone(run: Run, tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    assert before != 0o077, "else this shows nothing"

    def journal_mode(connection: sqlite3.Connection) -> int:
        add("a")(connection)
        return mode(tmp_path / "a.db-journal")

    async def scenario() -> None:
        async with opened(tmp_path / "a.db") as storage:
            assert await storage.write(journal_mode) == 0o600
            assert mode(tmp_path / "a.db") == 0o600
            assert mode(tmp_path / "a.db.lock") == 0o600

    run(scenario)


@posix
def test_an_empty_file_becomes_a_database_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch(0o644)
    filled(path)
    assert mode(path) == 0o600


@posix
def test_a_mode_that_somebody_chose_stays(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    path.chmod(0o640)
    filled(path, rows=0)
    assert mode(path) == 0o640


@posix
def test_a_file_that_everybody_may_read_is_made_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path / "a.db")
    for loose in (0o644, 0o666, 0o604):
        path.chmod(loose)
        with pytest.raises(UsageError, match="newer"):
            anyio.run(SqliteStorage(path, OLD_NOTES).open)
        filled(path, rows=0)
        assert mode(path) == 0o600
    assert "had the mode 0644; it is 0600 now" in caplog.text


def put(kind: str, place: Path, real: Path) -> None:
    """Create something that is not an ordinary file of this package."""
    if kind == "symlink":
        place.symlink_to(real)
    elif kind == "dangling symlink":
        place.symlink_to(real.with_name("nothing"))
    elif kind == "hard link":
        os.link(real, place)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with closing(socket.socket(socket.AF_UNIX)) as bound:
            bound.bind(str(place))
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        shutil.copy(real, place)
        os.chown(place, 65534, 65534)


KINDS = ("symlink", "dangling symlink", "hard link", "pipe", "socket", "folder", "device", "somebody else's")
each_kind = pytest.mark.parametrize("kind", KINDS)


def put_or_skip(kind: str, place: Path, real: Path) -> None:
    try:
        put(kind, place, real)
    except PermissionError:
        pytest.skip("only root makes devices and gives files away")


@posix
@each_kind
@as_whom
def test_what_is_no_ordinary_file_of_ours_is_refused_in_place_of_a_database(
    quick_path: Path, kind: str, *, owner: bool
) -> None:
    real = filled(quick_path / "real.db")
    (quick_path / "folder").mkdir()
    path = quick_path / "folder" / "a.db"
    put_or_skip(kind, path, real)
    if kind == "somebody else's" and not owner:
        return
    before = real.read_bytes(), path.lstat()
    with pytest.raises(UsageError, match="was left as it is"):
        anyio.run(SqliteStorage(path, NOTES, owner=owner).open)
    assert (real.read_bytes(), path.lstat()) == before
    assert [file.name for file in path.parent.iterdir()] == ["a.db"]
    assert not real.with_name("nothing").exists()


@posix
@each_kind
def test_what_is_no_ordinary_file_of_ours_is_refused_in_place_of_a_lock(quick_path: Path, kind: str) -> None:
    real = quick_path / "precious"
    real.write_text("not to be truncated")
    path = quick_path / "a.db.lock"
    put_or_skip(kind, path, real)
    before = path.lstat()
    with pytest.raises(UsageError, match=r"has the name of the lock file|cannot be opened"):
        anyio.run(SqliteStorage(quick_path / "a.db", NOTES).open)
    after = path.lstat()
    assert (after.st_mode, after.st_size, after.st_uid) == (before.st_mode, before.st_size, before.st_uid)
    assert real.read_text() == "not to be truncated"
    assert not (quick_path / "a.db").exists()
    assert not real.with_name("nothing").exists()


@posix
def test_what_is_put_there_at_the_last_moment_is_refused_too(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_lock, "status", lambda _: None)
    for kind in ("symlink", "pipe"):
        real = quick_path / "precious"
        real.write_text("not to be truncated")
        put(kind, quick_path / "a.db.lock", real)
        with pytest.raises(UsageError, match=r"has the name of the lock file|cannot be opened"):
            anyio.run(SqliteStorage(quick_path / "a.db", NOTES).open)
        assert real.read_text() == "not to be truncated"
        (quick_path / "a.db.lock").unlink()


@as_whom
def test_a_file_that_must_exist_is_not_made(quick_path: Path, *, owner: bool) -> None:
    path = quick_path / "a.db"
    for _ in range(2):
        with pytest.raises(UsageError, match=r"is (missing|empty), but must_exist=True"):
            anyio.run(SqliteStorage(path, NOTES, owner=owner, must_exist=True).open)
        assert not path.with_name("a.db.lock").exists()
        path.touch()
    filled(path)
    with pytest.raises(UsageError, match="holds no other, but must_exist=True"):
        anyio.run(SqliteStorage(path, OTHERS, owner=owner, must_exist=True).open)

    async def scenario() -> list[str]:
        storage = SqliteStorage(path, NOTES, owner=owner, must_exist=True)
        await storage.open()
        try:
            return await storage.read(texts)
        finally:
            await storage.aclose()

    assert len(anyio.run(scenario)) == 3


def test_the_pragmas_that_durability_needs_are_on(tmp_path: Path) -> None:
    def pragmas(connection: sqlite3.Connection) -> list[Any]:
        names = ["synchronous", "journal_mode", "secure_delete", "foreign_keys", "application_id"]
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    async def scenario() -> list[Any]:
        async with opened(tmp_path / "a.db") as storage:
            return await storage.read(pragmas)

    assert anyio.run(scenario) == [3, "delete", 1, 1, schema.APPLICATION_ID]


def test_a_name_that_looks_like_a_url_is_a_name(tmp_path: Path) -> None:
    for name in ("a b?mode=ro#x%41.db", "käse-😀.db"):
        assert filled(tmp_path / name).exists()


NO_DATABASE = {
    "a byte": b"x",
    "a line": b"member_id,plan_id\n",
    "a text": b"member_id,plan_id\n" * 1_000,
    "zeros": b"\0" * 8192,
    "a header and nothing": b"SQLite format 3\0" + b"x" * 200,
}


@pytest.mark.parametrize("content", NO_DATABASE.values(), ids=NO_DATABASE)
@as_whom
def test_what_is_no_database_is_left_alone(tmp_path: Path, content: bytes, *, owner: bool) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    reason = refusal(path, owner=owner)
    wrong_file = f"UsageError: {path} is not a SQLite database, and was left as it is: name another file"
    assert reason == wrong_file or (content.startswith(b"SQLite") and "damaged" in reason)


@pytest.mark.parametrize("journal", ["delete", "wal"])
@as_whom
def test_another_programs_database_is_left_alone(tmp_path: Path, journal: str, *, owner: bool) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("CREATE TABLE theirs (x)")
    assert "another program's" in refusal(path, owner=owner)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id=42")
    assert "another program's" in refusal(path, owner=owner)


@as_whom
def test_what_another_program_left_in_its_log_is_left_there(tmp_path: Path, *, owner: bool) -> None:
    (tmp_path / "theirs").mkdir()
    theirs = tmp_path / "theirs" / "a.db"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("PRAGMA wal_checkpoint")
        connection.execute("INSERT INTO theirs VALUES (1)")
        connection.commit()
        for file in ("a.db", "a.db-wal"):
            shutil.copy(theirs.with_name(file), tmp_path)
    assert "another program's" in refusal(tmp_path / "a.db", owner=owner)


@as_whom
def test_a_newer_file_is_left_alone(tmp_path: Path, *, owner: bool) -> None:
    path = filled(tmp_path / "a.db")
    assert "newer tgmembership-async" in refusal(path, OLD_NOTES, owner=owner)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={schema.LAYOUT + 1}")
    assert "newer tgmembership-async" in refusal(path, owner=owner)


def test_an_older_file_is_brought_up_to_date_by_its_owner_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db", OLD_NOTES)
    assert "an older note: open it once as its owner" in refusal(path, owner=False)
    filled(path, rows=0)

    def authors(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute("SELECT author, (SELECT version FROM component) FROM note").fetchall()

    async def scenario() -> list[Any]:
        async with opened(path, owner=False) as storage:
            return await storage.read(authors)

    assert anyio.run(scenario) == [("nobody", 2)] * 3


def test_a_migration_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db", OLD_NOTES)
    broken = Component("note", (*OLD_NOTES.migrations, ("CREATE TABLE half (x)", "SELECT nonsense")))
    with pytest.raises(StorageError, match="no such column: nonsense"):
        anyio.run(SqliteStorage(path, broken).open)
    with closing(sqlite3.connect(path)) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall()
    filled(path, NOTES, rows=0)


def test_who_does_not_own_a_file_does_not_make_one(tmp_path: Path) -> None:
    assert "holds nothing yet" in refusal(tmp_path / "a.db", owner=False)
    (tmp_path / "a.db").touch()
    assert "holds nothing yet" in refusal(tmp_path / "a.db", owner=False)
    filled(tmp_path / "b.db")
    assert "no other: open it once as its owner" in refusal(tmp_path / "b.db", OTHERS, owner=False)


def test_a_path_that_leads_nowhere_is_a_usage_error(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    with pytest.raises(UsageError, match="No such file or directory"):
        anyio.run(SqliteStorage(tmp_path / "missing" / "a.db", NOTES).open)
    for path in ("", ":memory:", "a\0b", b"bytes.db", 42):
        with pytest.raises(UsageError):
            SqliteStorage(path, NOTES)  # type: ignore[arg-type]  # callers are not all typed


@pytest.mark.parametrize(
    "conninfo",
    [
        f"postgresql://shop:{CANARY_SECRET}@db/shop",
        f"postgres:shop:{CANARY_SECRET}",
        f" host=db password={CANARY_SECRET}",
        f"PASSWORD = {CANARY_SECRET}",
        Path(f"postgresql://shop:{CANARY_SECRET}@db/shop"),
    ],
)
@pytest.mark.parametrize(("kind", "better"), [(SqliteLedger, "PostgresLedger"), (SqliteInbox, "PostgresInbox")])
def test_a_connection_string_is_not_taken_for_a_file_name(
    conninfo: str | Path, kind: Callable[[str | Path], object], better: str
) -> None:
    with pytest.raises(UsageError, match=rf"connection string, .*use {better}\(") as caught:
        kind(conninfo)
    assert CANARY_SECRET not in str(caught.value)


def test_a_file_name_may_look_like_a_connection_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./user=7.db", "members=7.db", "postgresql.db", "C:/shop.db"):
        assert SqliteStorage(name, NOTES).path.name == Path(name).name


def test_damage_is_found_before_anything_is_written(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db", rows=200)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096])
    assert "damaged" in refusal(path)
    path.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    assert "damaged" in refusal(path)
    path.write_bytes(whole)
    filled(path, rows=0)


def test_damage_that_comes_later_is_told_and_undone(run: Run, tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db", rows=200)

    async def scenario() -> None:
        async with opened(path) as storage:
            await storage.write(lambda c: c.execute("PRAGMA cache_size=0").fetchall())
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * (path.stat().st_size - 4096))
            with pytest.raises(StorageError, match="damaged"):
                await storage.read(texts)

    run(scenario)


@posix
def test_a_file_that_is_deleted_while_in_use_is_missed(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "a.db") as storage:
            (tmp_path / "a.db").unlink()
            with pytest.raises(StorageError, match="moved, replaced or deleted"):
                await storage.write(add("into the void"))
        (tmp_path / "a.db.lock").unlink()

    run(scenario)


def test_a_file_that_others_put_into_wal_mode_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_OWNER_WAITS", 0.1)
    path = filled(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=wal")
        assert other.execute("SELECT count(*) FROM note").fetchone() == (3,)
        with pytest.raises((UsageError, StorageError), match=r"another program|locked"):
            anyio.run(SqliteStorage(path, NOTES).open)
    filled(path, rows=0)
    assert path.read_bytes()[18:20] == b"\x01\x01"


def test_a_full_disk_keeps_what_was_there(run: Run, quick_path: Path) -> None:
    big = "x" * 200_000

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            await storage.write(add("before"))
            await storage.write(lambda c: c.execute("PRAGMA max_page_count=20").fetchone())
            with pytest.raises(StorageError, match=r"disk is full \(SQLITE_FULL\): the disk is full"):
                await storage.write(add(big))
            await storage.write(add("small"))
            assert await storage.read(texts) == ["before", "small"]

    run(scenario)


ON_A_SMALL_DISK = """
import resource
import anyio
from note_table import add, busy, opened, texts
from tgmembership_async.errors import StorageError

async def main():
    failed = []

    async def write(storage, text):
        try:
            await storage.write(add(text))
        except StorageError as error:
            failed.append(str(error))

    async with opened(sys.argv[1]) as storage:
        await storage.write(add("before"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))
        async with anyio.create_task_group() as group, busy(storage):
            for number in range(10):
                group.start_soon(write, storage, str(number) + "x" * 20_000)
        await storage.write(add("after")) if len(failed) == 10 else None
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(len(failed), await storage.read(lambda c: [text[:6] for text in texts(c)]))
        print(failed[0])

anyio.run(main, backend=sys.argv[2])
"""


@posix
def test_a_disk_that_is_full_at_the_commit_fails_the_group_and_keeps_what_was_there(
    backend: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        python(ON_A_SMALL_DISK, tmp_path / "a.db", backend), check=False, capture_output=True, text=True, timeout=30
    )
    assert ended.stderr == ""
    state, reason = ended.stdout.splitlines()
    assert state == "10 ['before', 'after']"
    assert "what was kept before is intact" in reason


AS_NOBODY = """
import os, anyio, urllib.parse  # the last one is of pathlib's, which asks for it late
from note_table import NOTES, add, opened, texts
from tgmembership_async.errors import StorageError, UsageError
anyio.run(anyio.sleep, 0)  # so that everything is imported
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main():
    async with opened(sys.argv[1], owner=False) as storage:
        print(len(await storage.read(texts)))
        try:
            await storage.write(add("x"))
        except StorageError as error:
            print(error)
    try:
        async with opened(sys.argv[1]):
            pass
    except (UsageError, StorageError) as error:
        print(error)

anyio.run(main)
"""


@posix
def test_a_file_that_may_only_be_read_is_read_and_says_so(quick_path: Path) -> None:
    quick_path.chmod(0o777)
    path = filled(quick_path / "a.db")
    path.chmod(0o444)
    path.with_name("a.db.lock").unlink()
    before = path.read_bytes()
    # Nobody may write down what he covered.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    ended = subprocess.run(python(AS_NOBODY, path), check=False, capture_output=True, text=True, timeout=30, env=env)
    assert ended.stderr == ""
    rows, on_write, on_open = ended.stdout.splitlines()
    assert rows == "3"
    assert "this process may only read it" in on_write
    assert "may only be read by this process" in on_open
    assert path.read_bytes() == before


def test_an_old_sqlite_is_refused_with_its_version() -> None:
    with pytest.raises(UsageError, match=r"SQLite 3\.36\.0, and 3\.37 or later is needed"):
        schema.check_sqlite((3, 36, 0))
    schema.check_sqlite((3, 37, 0))
