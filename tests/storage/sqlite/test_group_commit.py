"""The writer thread: results are durable, a failing job fails alone, and every waiter gets an outcome."""

import asyncio
import gc
import sqlite3
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
import trio
from note_table import NOTES, OTHERS, add, an_orphan, busy, opened, python, texts

from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.storage import wakeups
from tgmembership_async.storage.sqlite import group_commit, schema, writer
from tgmembership_async.storage.sqlite.database import Job, SqliteStorage

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def seen_from_outside(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return texts(connection)
    finally:
        connection.close()


def writers(folder: Path) -> int:
    return sum(str(folder) in thread.name for thread in threading.enumerate())


def slowly(_: sqlite3.Connection) -> None:
    time.sleep(0.05)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every statement that a new connection runs."""
    seen: list[str] = []

    def traced(path: Path, *, owner: bool) -> sqlite3.Connection:
        connection = schema.connect(path, owner=owner)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(writer, "connect", traced)
    return seen


def test_what_a_write_returns_is_on_disk(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            for number in range(5):
                assert await storage.write(add(f"note {number}")) == number + 1
                assert f"note {number}" in seen_from_outside(quick_path / "a.db")
            assert await storage.read(texts) == [f"note {number}" for number in range(5)]

    run(scenario)


def test_many_at_once_share_a_commit(run: Run, quick_path: Path, statements: list[str]) -> None:
    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            statements.clear()
            async with anyio.create_task_group() as group:
                for number in range(200):
                    group.start_soon(storage.write, add(str(number)))
            assert statements.count("COMMIT") <= 5
            assert sorted(await storage.read(texts), key=int) == [str(number) for number in range(200)]

    run(scenario)


def test_only_after_a_large_group_does_a_small_one_wait_for_more(
    run: Run, quick_path: Path, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    may_go_on = threading.Event()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert may_go_on.wait(10)

    monkeypatch.setattr(writer, "sleep", sleep)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            for number in range(3):
                await storage.write(add(f"alone {number}"))
            assert not waits
            async with anyio.create_task_group() as group, busy(storage):
                for number in range(20):
                    group.start_soon(storage.write, add(f"together {number}"))
            statements.clear()
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(storage.write, add(f"late {number}"))
                    await anyio.wait_all_tasks_blocked()
                may_go_on.set()
            assert len(waits) == statements.count("COMMIT") == 1
            await storage.write(add("the last"))
            assert len(waits) == 1

    run(scenario)


def test_a_group_wakes_each_event_loop_once(run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    wake = wakeups._wake

    def counted(together: list[wakeups.Woken]) -> None:
        calls.append(len(together))
        wake(together)

    monkeypatch.setattr(wakeups, "_wake", counted)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage, anyio.create_task_group() as group, busy(storage):
            calls.clear()
            for number in range(100):
                group.start_soon(storage.write, add(str(number)))
        assert calls[:2] == [1, 100]

    run(scenario)


def test_a_large_group_leaves_the_event_loop_turns_for_others(
    run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "_IN_ONE_TURN", 10)
    woken = 0

    async def write(storage: SqliteStorage, number: int) -> None:
        nonlocal woken
        await storage.write(add(str(number)))
        woken += 1

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage, anyio.create_task_group() as group:
            async with busy(storage):
                for number in range(100):
                    group.start_soon(write, storage, number)
            seen = [0]
            while seen[-1] < 100:
                await anyio.lowlevel.checkpoint()
                seen.append(woken)
            # Trio takes what can run in any order, so that a few tens may pass between two turns of one task.
            assert max(after - before for before, after in pairwise(seen)) <= 30

    run(scenario)


def test_what_nobody_waits_for_is_told_its_result_or_that_it_failed(run: Run, quick_path: Path) -> None:
    def all_of(connection: sqlite3.Connection, ones: Sequence[str]) -> list[str]:
        if "bad" in ones:
            msg = "not this one"
            raise GrantError(msg)
        for one in ones:
            add(one)(connection)
        return list(ones)

    async def scenario() -> None:
        told: list[str | None] = []
        async with opened(quick_path / "a.db") as storage:
            async with busy(storage):
                for one in ("a", "bad", "b"):
                    storage.write_later(all_of, one, told.append)
            assert await storage.read(texts) == ["a", "b"]
            assert told == ["a", None, "b"], "what was queued before is told before"

    run(scenario)


def test_jobs_run_in_the_order_they_came(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage, anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(storage.write, add(str(number)))
                await anyio.wait_all_tasks_blocked()
            expected = [str(number) for number in range(20)]
            assert await storage.read(texts) == expected

    run(scenario)


def test_a_group_has_an_end_however_much_is_queued(
    run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    monkeypatch.setattr(writer, "_LARGEST_GROUP", 10)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            statements.clear()
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(storage.write, add(str(number)))
            assert statements.count("COMMIT") >= 10

    run(scenario)


def test_a_job_that_raises_is_undone_alone(run: Run, quick_path: Path) -> None:
    def half_done(connection: sqlite3.Connection) -> None:
        add("half done")(connection)
        msg = "changed my mind"
        raise GrantError(msg)

    raised: list[Exception] = []

    async def fail(storage: SqliteStorage) -> None:
        try:
            await storage.write(half_done)
        except GrantError as error:
            raised.append(error)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            async with anyio.create_task_group() as group, busy(storage):
                for number in range(10):
                    group.start_soon(storage.write, add(str(number)))
                    group.start_soon(fail, storage)
            assert sorted(await storage.read(texts), key=int) == [str(number) for number in range(10)]
            assert len(set(map(id, raised))) == 10
            with pytest.raises(StorageError, match=r"UNIQUE constraint failed: note.text"):
                await storage.write(add("1"))
            with pytest.raises(ZeroDivisionError):
                await storage.write(lambda _: 1 // 0)
            with pytest.raises(KeyboardInterrupt):
                await storage.write(lambda _: (_ for _ in ()).throw(KeyboardInterrupt))

    run(scenario)


@pytest.mark.parametrize("what", ["commit", "transaction"])
def test_what_stops_the_commit_fails_the_group_and_nobody_else(run: Run, quick_path: Path, what: str) -> None:
    def given_up(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")  # as SQLite itself does where it cannot go on
        msg = "database or disk is full"
        raise sqlite3.OperationalError(msg)

    failures: list[StorageError] = []

    async def fail(storage: SqliteStorage, job: Job[Any]) -> None:
        try:
            await storage.write(job)
        except StorageError as error:
            failures.append(error)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            await storage.write(add("before"))
            async with anyio.create_task_group() as group, busy(storage):
                for number in range(3):
                    group.start_soon(fail, storage, add(str(number)))
                group.start_soon(fail, storage, an_orphan if what == "commit" else given_up)
                group.start_soon(fail, storage, texts)
            assert len(set(map(id, failures))) == 5
            assert all(("FOREIGN KEY" if what == "commit" else "disk is full") in str(error) for error in failures)
            assert await storage.read(texts) == ["before"]
            await storage.write(add("after"))
            assert seen_from_outside(quick_path / "a.db") == ["before", "after"]

    run(scenario)


def test_a_disk_that_fails_even_to_go_back_leaves_nobody_waiting(run: Run, quick_path: Path) -> None:
    class Broken:
        in_transaction = True

        def execute(self, statement: str) -> None:
            if statement in ("COMMIT", "ROLLBACK"):
                msg = "disk I/O error"
                raise sqlite3.OperationalError(msg)

    async def scenario() -> None:
        queued = group_commit.AwaitedJob(group_commit.each, lambda _: "done", writes=True)
        group_commit.carry_out(cast("sqlite3.Connection", Broken()), quick_path / "a.db", [queued])
        with pytest.raises(StorageError, match="disk I/O error"):
            queued.outcome()

    run(scenario)


def test_cancellation_is_prompt_and_the_job_still_happens(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            async with anyio.create_task_group() as group, busy(storage):
                with anyio.move_on_after(0.01) as scope:
                    await storage.write(add("nobody waits"))
                assert scope.cancelled_caught
                group.start_soon(storage.write, add("somebody waits"))
            assert await storage.read(texts) == ["nobody waits", "somebody waits"]

    run(scenario)


def test_closing_finishes_what_is_queued_and_joins_the_thread(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        storage = SqliteStorage(quick_path / "a.db", NOTES)
        await storage.open()
        assert writers(quick_path) == 1
        async with anyio.create_task_group() as group:
            group.start_soon(storage.read, slowly)
            for number in range(20):
                group.start_soon(storage.write, add(str(number)))
            await anyio.wait_all_tasks_blocked()
            await storage.aclose()
            assert writers(quick_path) == 0
        assert len(seen_from_outside(quick_path / "a.db")) == 20
        for use in (storage.write, storage.read):
            with pytest.raises(UsageError, match="not open"):
                await use(texts)
        await storage.aclose()

    run(scenario)


def test_a_cancelled_closing_still_closes(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        storage = SqliteStorage(quick_path / "a.db", NOTES)
        await storage.open()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await storage.aclose()
        assert writers(quick_path) == 0
        async with opened(quick_path / "a.db"):
            pass

    run(scenario)


def test_a_cancelled_opening_leaves_nothing_behind(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        for _ in range(5):
            storage = SqliteStorage(quick_path / "a.db", NOTES)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await storage.open()
            assert scope.cancelled_caught
            assert not storage.is_open
        async with opened(quick_path / "a.db") as storage:
            await storage.write(add("a"))
        assert writers(quick_path) == 0

    run(scenario)


def test_one_storage_serves_one_event_loop_after_the_other(quick_path: Path) -> None:
    storage = SqliteStorage(quick_path / "a.db", NOTES)
    anyio.run(storage.open, backend="asyncio")
    for number, backend in enumerate(["trio", "asyncio", "trio"]):
        anyio.run(storage.write, add(str(number)), backend=backend)
    anyio.run(storage.aclose, backend="trio")
    assert seen_from_outside(quick_path / "a.db") == ["0", "1", "2"]


def test_an_event_loop_that_died_disturbs_nobody(backend: str, quick_path: Path) -> None:
    storage = SqliteStorage(quick_path / "a.db", NOTES)
    gate = threading.Event()

    async def die() -> None:
        await storage.open()
        async with anyio.create_task_group() as group:
            group.start_soon(storage.read, lambda _: gate.wait(10))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(storage.write, add("left behind"))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

    anyio.run(die, backend=backend)
    gate.set()
    assert anyio.run(storage.read, texts) == ["left behind"]
    anyio.run(storage.aclose)


def test_two_event_loops_may_use_one_storage_at_a_time(quick_path: Path) -> None:
    storage = SqliteStorage(quick_path / "a.db", NOTES)
    anyio.run(storage.open)

    async def work(prefix: str) -> None:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(storage.write, add(f"{prefix}{number}"))

    threads = [
        threading.Thread(target=lambda backend=backend: anyio.run(work, backend, backend=backend))
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(anyio.run(storage.read, texts)) == 100
    anyio.run(storage.aclose)


def test_a_guest_of_asyncio_is_still_trio(quick_path: Path) -> None:
    async def work() -> list[str]:
        async with opened(quick_path / "a.db") as storage:
            await storage.write(add("from a guest"))
            return await storage.read(texts)

    async def host() -> list[str]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            work, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        result: list[str] = (await ended).unwrap()
        return result

    assert asyncio.run(host()) == ["from a guest"]


def test_components_share_a_file_and_its_thread(run: Run, quick_path: Path) -> None:
    path = quick_path / "a.db"

    async def scenario() -> None:
        async with opened(path) as notes, opened(path, OTHERS) as others, anyio.create_task_group() as group:
            assert writers(quick_path) == 1
            assert await others.write(lambda c: c.execute("INSERT INTO other DEFAULT VALUES").lastrowid) == 1
            group.start_soon(others.read, slowly)
            group.start_soon(notes.write, add("a"))
            await anyio.wait_all_tasks_blocked()
            await notes.aclose()
            assert seen_from_outside(path) == ["a"]
            assert await others.write(add("b")) == 2
        assert writers(quick_path) == 0

    run(scenario)


def test_too_much_waiting_is_refused(run: Run, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MOST_QUEUED", 3)

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage, anyio.create_task_group() as group, busy(storage):
            for number in range(3):
                group.start_soon(storage.write, add(str(number)))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StorageError, match="the disk is too slow"):
                await storage.write(add("one too many"))

    run(scenario)


def test_neither_jobs_nor_results_are_held_once_they_are_told(run: Run, quick_path: Path) -> None:
    class Token:
        pass

    async def scenario() -> None:
        async with opened(quick_path / "a.db") as storage:
            token = Token()
            gone = weakref.ref(token)
            assert await storage.write(partial(lambda token, _: token, token)) is token
            del token
            for _ in range(100):  # the thread closes the file a moment after it has woken its waiter
                gc.collect()
                if gone() is None:
                    return
                await anyio.sleep(0.01)
            pytest.fail("somebody still holds it")

    run(scenario)


def test_a_job_queued_after_the_end_is_refused(run: Run, quick_path: Path) -> None:
    async def scenario() -> None:
        storage = SqliteStorage(quick_path / "a.db", NOTES)
        await storage.open()
        late = storage._writer
        assert late is not None
        queued = group_commit.AwaitedJob(group_commit.each, texts, writes=False)
        async with anyio.create_task_group() as group, busy(storage):
            group.start_soon(storage.aclose)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="is closed"):
                late.submit(queued)
            late._queue.put(queued)  # as another thread does that checked a moment earlier
        await queued.waiter.wait()
        with pytest.raises(UsageError, match="is closed"):
            queued.outcome()

    run(scenario)


def test_a_program_that_forgets_to_close_ends_and_loses_nothing(quick_path: Path) -> None:
    code = """
import asyncio, sys
from note_table import NOTES, add
from tgmembership_async.storage.sqlite.database import SqliteStorage

async def main():
    storage = SqliteStorage(sys.argv[1], NOTES)
    await storage.open()
    tasks = [asyncio.create_task(storage.write(add(str(n)))) for n in range(50)]
    await asyncio.sleep(0)

asyncio.run(main())
"""
    ended = subprocess.run(python(code, quick_path / "a.db"), check=False, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(seen_from_outside(quick_path / "a.db")) == 50
