"""One owner at a time: other processes are refused until it ends, and readers are always allowed."""

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from forked import Forked
from note_table import NOTES, OTHERS, add, opened, python, texts

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.sqlite import schema
from tgmembership_async.storage.sqlite.database import SqliteStorage, waiting_for_owners

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

OWNER = """
import anyio
from note_table import add, opened

async def main():
    async with opened(sys.argv[1]) as storage:
        await storage.write(add("from the owner"))
        print("ready", flush=True)
        sys.stdin.readline()

anyio.run(main)
"""

BUSY_OWNER = """
import anyio, itertools
from note_table import add, opened

async def main():
    numbers = itertools.count()

    async def work(storage):
        for number in numbers:
            await storage.write(add(f"{number:06}" + "x" * 500))
            print(number, flush=True)

    async with opened(sys.argv[1]) as storage, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(work, storage)

anyio.run(main)
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    started = Forked(python(code, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield started
    finally:
        started.kill()
        started.communicate(timeout=60)


@contextmanager
def living_owner(path: Path) -> Iterator["subprocess.Popen[str]"]:
    with process(OWNER, path) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        yield owner


def test_a_second_owner_is_told_who_has_it_and_what_to_do(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        with pytest.raises(UsageError) as caught:
            await SqliteStorage(path, NOTES).open()
        told = str(caught.value)
        assert f"in use by process {owner.pid} since" in told
        assert "With several workers or replicas use PostgreSQL" in told
        assert "owner=False" in told

    with living_owner(path) as owner:
        run(scenario)


def test_readers_and_writers_work_beside_a_living_owner(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        async with opened(path, owner=False) as storage, opened(path, owner=False) as another:
            assert await storage.read(texts) == ["from the owner"]
            await storage.write(add("from beside"))
            assert await another.read(texts) == ["from the owner", "from beside"]

    with living_owner(path):
        run(scenario)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_an_owner_that_was_killed_leaves_the_lock_and_everything_it_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    told: set[int] = set()
    with process(BUSY_OWNER, path) as owner:
        assert owner.stdout is not None
        for _ in range(100):
            told.add(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
        told.update(int(line) for line in owner.stdout if line.endswith("\n"))

        async def scenario() -> None:
            async with opened(path) as storage:
                kept = {int(text[:6]) for text in await storage.read(texts)}
                assert told <= kept
                assert len(kept - told) <= 16  # written, and not told before the end
                await storage.write(add("the next owner"))

        run(scenario)


def test_the_lock_file_stays_and_the_lock_goes(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        for _ in range(3):
            async with opened(quick_path / "a.db") as storage:
                await storage.read(texts)
            holder, _, _ = (quick_path / "a.db.lock").read_text().partition("\n")
            assert json.loads(holder)["pid"] == os.getpid()

    run(scenario)


def test_a_lock_without_a_pid_in_it_is_still_a_lock(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        with pytest.raises(UsageError, match="in use by another process"):
            await SqliteStorage(path, NOTES).open()

    with living_owner(path):
        path.with_name("a.db.lock").write_text("who knows")
        run(scenario)


def test_a_lock_that_cannot_be_opened_is_a_usage_error(run: Run, quick_path: Path) -> None:
    (quick_path / "a.db.lock").mkdir()

    async def scenario() -> None:
        with pytest.raises(UsageError, match=r"a\.db\.lock cannot be opened: Is a directory"):
            await SqliteStorage(quick_path / "a.db", NOTES).open()

    run(scenario)
    assert not (quick_path / "a.db").exists()


def test_a_new_owner_waits_for_the_old_one_to_end(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        with living_owner(path) as owner:
            assert owner.stdin is not None

            async def end() -> None:
                await anyio.sleep(0.1)
                assert owner.stdin is not None
                owner.stdin.write("\n")
                owner.stdin.flush()

            async with anyio.create_task_group() as group:
                group.start_soon(end)
                storage = SqliteStorage(path, NOTES, wait=30)
                await storage.open()
            assert await storage.read(texts) == ["from the owner"]
            await storage.aclose()
            began = time.monotonic()
            assert owner.wait(10) == 0
            assert time.monotonic() - began < 5

    run(scenario)


def test_waiting_for_an_owner_has_an_end_and_can_be_cancelled(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        with pytest.raises(UsageError, match="in use by process"), waiting_for_owners(0.1):
            await SqliteStorage(path, NOTES).open()
        with anyio.move_on_after(0.05) as scope, waiting_for_owners(600):
            await SqliteStorage(path, NOTES).open()
        assert scope.cancelled_caught
        with pytest.raises(UsageError, match="in use by process"), waiting_for_owners(600):
            await SqliteStorage(path, NOTES, wait=0).open()

    with living_owner(path):
        run(scenario)


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), True, "30"])
def test_a_wait_is_a_number_of_seconds(tmp_path: Path, wait: Any) -> None:
    with pytest.raises(UsageError, match="wait is a number of seconds"):
        SqliteStorage(tmp_path / "a.db", NOTES, wait=wait)


@pytest.mark.parametrize(
    ("elsewhere", "told"),
    [
        ({"host": "pod-1"}, "in use by process {pid} of host pod-1 since 20"),
        ({"pid_namespace": "pid:[1]"}, "in use by process {pid} of a container of this host since 20"),
        ({}, "in use by this process itself since 20"),
    ],
)
def test_a_holder_elsewhere_is_named_by_its_host_and_start(
    quick_path: Path, elsewhere: dict[str, str], told: str
) -> None:
    path = quick_path / "a.db"
    with living_owner(path) as owner:
        beside = path.with_name("a.db.lock")
        first, _, rest = beside.read_text().partition("\n")
        facts = {**json.loads(first), "pid": os.getpid(), **elsewhere}
        beside.write_text(json.dumps(facts).ljust(len(first)) + "\n" + rest)
        with pytest.raises(UsageError) as caught:
            anyio.run(SqliteStorage(path, NOTES).open)
        assert told.format(pid=os.getpid()) in str(caught.value)
        assert owner.poll() is None


def test_one_process_has_one_owner_of_a_component(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"
    (quick_path / "folder").symlink_to(quick_path)

    async def scenario() -> None:
        async with opened(path), opened(path, OTHERS):
            for name in ("a.db", "folder/a.db"):
                with pytest.raises(UsageError, match="in use by this process already"):
                    await SqliteStorage(quick_path / name, NOTES).open()
            async with opened(path, owner=False) as reader:
                assert await reader.read(texts) == []
        async with opened(path):
            pass

    run(scenario)


def test_who_opens_while_another_closes_waits_for_it(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        for number in range(10):
            storage = SqliteStorage(quick_path / "a.db", NOTES)
            await storage.open()
            async with anyio.create_task_group() as group:
                group.start_soon(storage.write, add(str(number)))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(storage.aclose)
                await anyio.wait_all_tasks_blocked()
                async with opened(quick_path / "a.db") as successor:
                    assert len(await successor.read(texts)) == number + 1

    run(scenario)


def test_a_file_that_somebody_keeps_locked_is_an_honest_error(
    run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_OTHERS_WAIT", 0.05)
    path = quick_path / "a.db"

    begun, end = threading.Event(), threading.Event()

    def long(connection: sqlite3.Connection) -> None:
        add("a")(connection)
        begun.set()
        end.wait(10)

    async def scenario() -> None:
        async with opened(path) as owner, opened(path, owner=False) as other:
            async with anyio.create_task_group() as group:
                group.start_soon(owner.write, long)
                await anyio.to_thread.run_sync(begun.wait, 60)
                with pytest.raises(StorageError, match="another process keeps it locked"):
                    await other.write(add("b"))
                assert await other.read(texts) == []
                end.set()
            await other.write(add("c"))
            assert await owner.read(texts) == ["a", "c"]

    run(scenario)


def test_opening_beside_drops_none_of_the_owners_locks(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"
    other_process = python(
        "import sqlite3; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')", path
    )
    begun, end = threading.Event(), threading.Event()

    def long(_: sqlite3.Connection) -> None:
        begun.set()
        end.wait(10)

    async def scenario() -> None:
        async with opened(path) as owner, anyio.create_task_group() as group:
            group.start_soon(owner.write, long)
            await anyio.to_thread.run_sync(begun.wait, 60)
            async with opened(path, owner=False) as beside:
                assert await beside.read(texts) == []
            ended = await anyio.run_process(other_process, check=False)
            assert b"database is locked" in ended.stderr
            end.set()

    run(scenario)


def test_what_is_read_while_its_owner_writes_it_is_not_taken_for_damage(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        async with opened(path):
            pass
        look = schema._look_at

        def at_a_bad_moment(path: Path) -> None:
            whole = path.read_bytes()
            path.write_bytes(whole[:-4096])  # the header tells of a page that is not there yet
            look(path)
            path.write_bytes(whole)

        monkeypatch.setattr(schema, "_look_at", at_a_bad_moment)
        async with opened(path, owner=False) as beside:
            assert await beside.read(texts) == []

    anyio.run(scenario)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_kill_at_any_moment_of_the_first_opening_leaves_a_file_that_opens(quick_path: Path) -> None:
    for number in range(5):
        path = quick_path / f"{number}.db"
        with process(BUSY_OWNER, path) as owner:
            while not path.exists():
                assert owner.poll() is None
            threading.Event().wait(number / 500)
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)

        async def scenario(path: Path = path) -> None:
            async with opened(path) as storage:
                await storage.write(add("after"))

        anyio.run(scenario)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_neither_uses_nor_keeps_what_its_parent_has_open(quick_path: Path) -> None:
    code = """
import os, anyio
from note_table import NOTES, add, opened, texts
from tgmembership_async.errors import UsageError
from tgmembership_async.storage.sqlite.database import SqliteStorage, waiting_for_owners

async def child(storage):
    try:
        await storage.write(add("from the child"))
    except UsageError as error:
        print(error, flush=True)
    await storage.aclose()
    try:
        await SqliteStorage(sys.argv[1], NOTES).open()
    except UsageError as error:
        print(error, flush=True)

async def successor():
    async with opened(sys.argv[1]) as storage:
        print(len(await storage.read(texts)), flush=True)

storage = SqliteStorage(sys.argv[1], NOTES)
anyio.run(storage.open)
if os.fork() == 0:
    anyio.run(child, storage)
    if os.fork() == 0:  # outlives the first, as the workers of a pool do
        os.read(int(sys.argv[2]), 1)
        os._exit(0)
    os._exit(0)
os.wait()
anyio.run(storage.write, add("from the parent"))
anyio.run(storage.aclose)
anyio.run(successor)
"""
    read, write = os.pipe()
    said = quick_path / "said"
    try:
        with said.open("w") as file:
            subprocess.run(
                python(code, quick_path / "a.db", read), check=True, stdout=file, timeout=30, pass_fds=[read]
            )
    finally:
        os.close(write)
        os.close(read)
    refused, owned, kept = said.read_text().splitlines()
    assert "was opened before this process was forked" in refused
    assert "a.db is in use by process" in owned
    assert kept == "1"
