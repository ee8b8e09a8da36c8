"""The Receiver with an inbox: stored, answered, handled; again where it failed, not for ever, and after a restart."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_SECRET
from own_schema import own_schema
from waiting import until
from webhook_deliveries import Clock, Seen, body, signed

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.webhooks import (
    Entry,
    EntryStatus,
    Event,
    HandlingPolicy,
    PostgresInbox,
    Receiver,
    SqliteInbox,
    Verifier,
)
from tgmembership_async.webhooks.worker import Worker

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
QUICK = HandlingPolicy(backoff_base=0.01, backoff_cap=0.02, max_attempts=4, handler_timeout=5)


@pytest.fixture
def path(quick_path: Path) -> Path:
    return quick_path / "inbox.db"


def receiver(inbox: SqliteInbox | PostgresInbox, *, policy: HandlingPolicy = QUICK, **options: Any) -> Receiver:
    verifier = Verifier(CANARY_SECRET, clock=options["clock"]) if "clock" in options else Verifier(CANARY_SECRET)
    return Receiver(verifier, inbox, policy=policy, **options)


async def deliver(to: Receiver, content: bytes, **how: Any) -> int:
    return (await to.handle(signed(content, **how), content)).status


async def settled(inbox: SqliteInbox) -> list[EntryStatus]:
    """Return the states of all entries, once none waits for a first or further attempt."""
    with anyio.fail_after(60):
        while True:
            found = [entry.status for entry in await inbox.entries()]
            if not {EntryStatus.STORED, EntryStatus.PROCESSING}.intersection(found):
                return found
            await anyio.sleep(0.005)


class TestInTheBackground:
    """On asyncio, where it does so by itself."""

    async def test_what_is_stored_is_handled(self, path: Path) -> None:
        seen, inbox = Seen(), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            for number in range(20):
                assert await deliver(to, body(number)) == 200
            assert await settled(inbox) == [EntryStatus.DONE] * 20
        assert sorted(event.data["order_id"] for event in seen.events) == list(range(20))
        assert set(seen.attempts) == {1}

    async def test_the_answer_does_not_wait_for_the_handlers(self, path: Path) -> None:
        go = asyncio.Event()
        async with (to := receiver(SqliteInbox(path))):

            @to.on(Event)
            async def slow(_: Event) -> None:
                await go.wait()

            assert await deliver(to, body()) == 200
            go.set()

    async def test_a_failing_handler_is_tried_again_with_the_number_of_the_attempt(self, path: Path) -> None:
        seen, inbox = Seen(RuntimeError("one"), ValueError("two")), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.DONE]
        assert seen.attempts == [1, 2, 3]

    async def test_after_max_attempts_it_is_dead_and_can_be_retried(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen, inbox = Seen(*(RuntimeError(str(number)) for number in range(4))), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.DEAD]
            [entry] = await inbox.entries()
            assert entry.note == "webhook_deliveries.Seen: RuntimeError"
            assert "delivery 1 (order_completed) is dead after 4 attempts" in caplog.text
            await inbox.retry(1)
            await deliver(to, body(2))
            assert await settled(inbox) == [EntryStatus.DONE, EntryStatus.DONE]
        assert sorted(seen.attempts) == [1, 1, 1, 2, 3, 4]

    async def test_one_event_that_fails_or_hangs_does_not_block_the_others(self, path: Path) -> None:
        inbox, seen = SqliteInbox(path), Seen()
        policy = HandlingPolicy(backoff_base=5, handler_timeout=0.3, concurrency=4)
        async with (to := receiver(inbox, policy=policy)):

            @to.on(Event)
            async def handler(event: Event) -> None:
                if event.data["order_id"] == 0:
                    raise RuntimeError
                if event.data["order_id"] == 1:
                    await asyncio.Event().wait()
                await seen(event)

            for number in range(50):
                await deliver(to, body(number))
            await until(lambda: len(seen.events) == 48)

    @pytest.mark.parametrize("failure", [RuntimeError(), asyncio.CancelledError()], ids=["error", "cancellation"])
    async def test_a_handler_that_is_done_is_not_run_again_for_the_failure_of_another(
        self, path: Path, failure: BaseException
    ) -> None:
        good, bad, inbox = Seen(), Seen(failure, failure), SqliteInbox(path)

        async def first(event: Event) -> None:
            await good(event)

        async with (to := receiver(inbox)):
            to.on(Event)(first)
            to.on(Event)(bad)
            await deliver(to, body())
            await settled(inbox)
        assert (good.attempts, bad.attempts) == ([1], [1, 2, 3])

    async def test_a_repeat_is_not_handled_again_and_not_lost(self, path: Path) -> None:
        seen, inbox, now = Seen(), SqliteInbox(path), time.time()
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            for nonce in ("once", "once", "another", None):
                assert await deliver(to, body(), nonce=nonce, at=now) == 200
            assert sorted(await settled(inbox)) == ["done", "repeat", "repeat"]
        assert len(seen.events) == 1

    async def test_what_is_unreadable_is_stored_and_answered_400(self, path: Path) -> None:
        inbox, now = SqliteInbox(path), time.time()
        async with (to := receiver(inbox)):
            assert [await deliver(to, b"junk", at=now) for _ in range(2)] == [400, 400]
            [entry] = await inbox.entries()
            assert (entry.status, entry.delivery.body) == (EntryStatus.UNREADABLE, b"junk")
            await inbox.retry(1)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.UNREADABLE, EntryStatus.DONE]

    async def test_no_more_than_concurrency_run_at_a_time(self, path: Path) -> None:
        running, most, inbox = 0, 0, SqliteInbox(path)
        async with (to := receiver(inbox, background=False)):
            for number in range(12):
                await deliver(to, body(number))
        async with (to := receiver(inbox, policy=HandlingPolicy(concurrency=3))):

            @to.on(Event)
            async def counted(_: Event) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.01)
                running -= 1

            await settled(inbox)
        assert most == 3

    async def test_a_cancellation_that_a_handler_lets_out_is_a_failure(self, path: Path) -> None:
        seen, inbox = Seen(asyncio.CancelledError()), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.DONE]
        assert seen.attempts == [1, 2]

    @pytest.mark.parametrize("failure", [SystemExit(3), BaseException()], ids=["exit", "other"])
    async def test_an_exit_in_a_handler_is_a_failure_of_that_handler(self, path: Path, failure: BaseException) -> None:
        seen, inbox = Seen(failure), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.DONE]
        assert seen.attempts == [1, 2]

    @pytest.mark.parametrize("ends", ["by an exception", "by a cancellation"])
    async def test_what_ends_the_handling_for_good_is_reported_at_once(
        self, path: Path, caplog: pytest.LogCaptureFixture, ends: str
    ) -> None:
        async with (to := receiver(SqliteInbox(path))):

            @to.on(Event)
            async def handler(_: Event) -> None:
                if ends == "by an exception":
                    raise GeneratorExit
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(60)

            await deliver(to, body())
            await until(lambda: "events are handled again after the next start" in caplog.text)
            assert await deliver(to, body(2)) == 200
        seen, inbox = Seen(), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            assert await settled(inbox) == [EntryStatus.DONE, EntryStatus.DONE]
        assert sorted(seen.attempts) == [1, 2]

    async def test_what_is_old_and_done_is_purged(self, path: Path) -> None:
        clock, inbox = Clock(), SqliteInbox(path)
        policy = HandlingPolicy(keep=100)
        async with (to := receiver(inbox, policy=policy, clock=clock)):
            await deliver(to, body(1), at=clock.now)
            await settled(inbox)
        clock.now += 7200
        async with (to := receiver(inbox, policy=policy, clock=clock)):
            with anyio.fail_after(60):
                while await inbox.entries():  # noqa: ASYNC110 - another task empties it
                    await anyio.sleep(0.005)


class TestLife:
    async def test_before_and_after_it_is_open_it_answers_503(self, path: Path) -> None:
        to = receiver(SqliteInbox(path))
        answers = [await to.handle(signed(body()), body()), to.before_body("POST")]
        async with to:
            assert await deliver(to, body()) == 200
            assert to.before_body("POST") is None
        answers += [await to.handle(signed(body()), body()), to.before_body("POST")]
        for answer in answers:
            assert answer is not None
            assert answer.status == 503
            assert ("retry-after", "5") in answer.headers

    async def test_it_is_opened_and_closed_in_different_tasks(self, path: Path) -> None:
        to = receiver(SqliteInbox(path))
        await asyncio.create_task(to.open())
        assert await asyncio.create_task(deliver(to, body())) == 200
        await asyncio.create_task(to.aclose())
        await to.aclose()

    async def test_what_was_left_is_handled_after_a_restart(self, path: Path) -> None:
        seen = Seen()
        async with (to := receiver(SqliteInbox(path), background=False)):
            for number in range(5):
                await deliver(to, body(number))
        inbox = SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            assert await settled(inbox) == [EntryStatus.DONE] * 5
        assert len(seen.events) == 5

    async def test_it_may_be_opened_again(self, path: Path) -> None:
        to, seen = receiver(SqliteInbox(path)), Seen()
        to.on(Event)(seen)
        for number in range(3):
            async with to:
                await deliver(to, body(number))
                await until(lambda: len(seen.events) == number + 1)  # noqa: B023 - called before the next round

    async def test_twice_at_a_time_is_a_mistake(self, path: Path) -> None:
        async with (to := receiver(SqliteInbox(path))):
            with pytest.raises(UsageError, match="open already"):
                await to.open()

    async def test_an_inbox_that_the_caller_opened_stays_open(self, path: Path) -> None:
        async with SqliteInbox(path) as inbox:
            async with (to := receiver(inbox)):
                await deliver(to, body())
            assert inbox.is_open
        assert not inbox.is_open

    async def test_an_inbox_that_does_not_open_leaves_it_closed(self, path: Path) -> None:
        async with SqliteInbox(path):
            to = receiver(SqliteInbox(path))
            with pytest.raises(UsageError, match="in use"):
                await to.open()
            assert (await to.handle({}, b"")).status == 503

    async def test_closing_waits_for_what_runs(self, path: Path) -> None:
        began, ended = asyncio.Event(), False
        async with (to := receiver(SqliteInbox(path))):

            @to.on(Event)
            async def slow(_: Event) -> None:
                nonlocal ended
                began.set()
                await asyncio.sleep(0.05)
                ended = True

            await deliver(to, body())
            await began.wait()
        assert ended

    async def test_closing_does_not_wait_for_ever_and_loses_nothing(self, path: Path) -> None:
        began, seen = asyncio.Event(), Seen()
        async with (to := receiver(SqliteInbox(path), policy=HandlingPolicy(handler_timeout=0.05))):

            @to.on(Event)
            async def stubborn(_: Event) -> None:
                began.set()
                while True:
                    try:
                        await asyncio.sleep(10)
                    except asyncio.CancelledError:
                        if to.before_body("POST") is not None:
                            raise

            await deliver(to, body())
            await began.wait()
        inbox = SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await settled(inbox)
        assert seen.attempts == [2]

    def test_another_event_loop_is_told_so(self, path: Path) -> None:
        to = receiver(SqliteInbox(path))

        async def elsewhere() -> None:
            with pytest.raises(UsageError, match="another event loop"):
                await deliver(to, body())

        async def scenario() -> None:
            async with to:
                await asyncio.to_thread(asyncio.run, elsewhere())

        asyncio.run(scenario())

    def test_it_repr_shows_no_secret(self, path: Path) -> None:
        assert repr(receiver(SqliteInbox(path))) == f"<Receiver with <SqliteInbox at {path}, not open>>"


class TestByHand:
    """On both backends: what trio needs, and tests like."""

    def test_pending_entries_are_handled_on_demand(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            seen = Seen(RuntimeError())
            async with (to := receiver(SqliteInbox(path), background=False)):
                to.on(Event)(seen)
                for number in range(40):
                    await deliver(to, body(number))
                assert seen.events == []
                assert await to.process_pending() in (40, 41)
                await until_done(to)
                assert len(seen.events) == 41

        async def until_done(to: Receiver) -> None:
            assert isinstance(to.inbox, SqliteInbox)
            while await to.inbox.entries([EntryStatus.STORED]):
                await anyio.sleep(0.01)
                await to.process_pending()

        run(scenario)

    @pytest.mark.parametrize("how", [Receiver.run, Receiver.process_pending])
    def test_closing_waits_for_handlers_that_the_caller_runs(self, path: Path, run: Run, how: Any) -> None:
        async def scenario() -> None:
            began, go, closed = anyio.Event(), anyio.Event(), anyio.Event()
            seen, inbox = Seen(), SqliteInbox(path)
            to = receiver(inbox, background=False)

            @to.on(Event)
            async def handler(event: Event) -> None:
                began.set()
                await go.wait()
                await seen(event)

            async def close() -> None:
                await to.aclose()
                closed.set()

            await to.open()
            await deliver(to, body())
            async with anyio.create_task_group() as group:
                group.start_soon(how, to)
                await began.wait()
                group.start_soon(close)
                await anyio.sleep(0.05)
                assert not closed.is_set()
                go.set()
            async with inbox:
                assert [entry.status for entry in await inbox.entries()] == [EntryStatus.DONE]
            assert seen.attempts == [1]

        run(scenario)

    @pytest.mark.parametrize("database", ["sqlite", "postgres"])
    def test_what_was_cancelled_is_handled_the_next_time(self, path: Path, run: Run, database: str) -> None:
        async def scenario(inbox: SqliteInbox | PostgresInbox) -> None:
            seen: list[int] = []

            async def handler(event: Event) -> None:
                seen.append(event.attempt)
                if event.attempt == 1:
                    scope.cancel()
                    await anyio.sleep_forever()

            async with (to := receiver(inbox, background=False)):
                to.on(Event)(handler)
                await deliver(to, body())
                with anyio.CancelScope() as scope:
                    await to.process_pending()
                [entry] = await inbox.entries()
                assert (entry.status, entry.note) == (EntryStatus.STORED, "the attempt was cancelled")
                assert await to.process_pending() == 1
                assert [entry.status for entry in await inbox.entries()] == [EntryStatus.DONE]
            assert seen == [1, 2]

        if database == "sqlite":
            run(lambda: scenario(SqliteInbox(path)))
        else:
            with own_schema() as url:
                run(lambda: scenario(PostgresInbox(url)))

    def test_a_cancellation_while_entries_are_claimed_loses_none(self, path: Path, run: Run) -> None:
        class Cancelling(SqliteInbox):
            cancel: Callable[[], None]

            async def claim(self, *arguments: Any) -> Any:
                self.cancel()
                return await super().claim(*arguments)

        async def hang(_: Event) -> None:
            await anyio.sleep_forever()

        async def scenario() -> None:
            inbox = Cancelling(path)
            async with (to := receiver(inbox, background=False)):
                to.on(Event)(hang)
                await deliver(to, body())
                with anyio.CancelScope() as scope:
                    inbox.cancel = scope.cancel
                    await to.process_pending()
                [entry] = await inbox.entries()
                assert entry.status is EntryStatus.STORED

        run(scenario)

    def test_run_runs_until_the_receiver_is_closed(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            seen = Seen()
            to = receiver(SqliteInbox(path), background=False)
            to.on(Event)(seen)
            await to.open()
            async with anyio.create_task_group() as group:
                group.start_soon(to.run)
                await deliver(to, body())
                await until(lambda: seen.events)
                await to.aclose()

        run(scenario)

    def test_on_trio_nothing_happens_behind_ones_back(self, path: Path) -> None:
        async def scenario() -> None:
            seen = Seen()
            async with (to := receiver(SqliteInbox(path))):
                to.on(Event)(seen)
                assert await deliver(to, body()) == 200
                await anyio.sleep(0.05)
                assert not seen.events
                assert await to.process_pending() == 1

        anyio.run(scenario, backend="trio")

    def test_before_it_is_open_there_is_nothing_to_do(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            for act in (receiver(SqliteInbox(path)).process_pending(), receiver(SqliteInbox(path)).run()):
                with pytest.raises(UsageError, match="not open"):
                    await act

        run(scenario)

    def test_an_attempt_in_which_the_process_died_counts(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            seen, policy = Seen(), HandlingPolicy(max_attempts=1)
            async with SqliteInbox(path) as inbox, receiver(inbox, policy=policy, background=False) as to:
                await deliver(to, body())
                assert len(await inbox.claim(1, datetime.now(UTC))) == 1
            async with SqliteInbox(path) as inbox, receiver(inbox, policy=policy, background=False) as to:
                to.on(Event)(seen)
                assert await to.process_pending() == 1
                [entry] = await inbox.entries()
                assert (entry.status, entry.note) == ("dead", "the process died in the last attempt")
            assert not seen.events

        run(scenario)


each_error = pytest.mark.parametrize(
    "error", [StorageError("the disk is full"), LookupError("a bug")], ids=["known", "other"]
)


class Broken(SqliteInbox):
    """An inbox whose disk fails on demand, with an error of this package or with any other."""

    def __init__(self, path: Path, error: Exception | None = None) -> None:
        super().__init__(path)
        self.error = error or StorageError("the disk is full")
        self.failures = {"store": 0, "claim": 0, "settle": 0}

    def _fail(self, what: str) -> None:
        if self.failures[what]:
            self.failures[what] -= 1
            raise self.error

    async def store(self, *arguments: Any, **more: Any) -> Any:
        self._fail("store")
        return await super().store(*arguments, **more)

    async def claim(self, *arguments: Any) -> Any:
        self._fail("claim")
        return await super().claim(*arguments)

    async def settle(self, *arguments: Any) -> Any:
        self._fail("settle")
        await super().settle(*arguments)


class TestDiskTrouble:
    async def test_a_handler_that_cannot_be_cancelled_does_not_keep_it_open(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("tgmembership_async.webhooks.intake._CANCEL_TIMEOUT", 0.02)
        began, go = asyncio.Event(), asyncio.Event()
        async with (to := receiver(SqliteInbox(path), policy=HandlingPolicy(handler_timeout=0.05))):

            @to.on(Event)
            async def stubborn(_: Event) -> None:
                began.set()
                while not go.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await go.wait()

            await deliver(to, body())
            await began.wait()
        assert "the Receiver closes without waiting for it" in caplog.text
        go.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    @each_error
    async def test_what_cannot_be_stored_is_answered_503(
        self, error: Exception, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        inbox = Broken(path, error)
        async with (to := receiver(inbox)):
            inbox.failures["store"] = 1
            answer = await to.handle(signed(body()), body())
            assert answer.status == 503
            assert ("retry-after", "30") in answer.headers
            assert await deliver(to, body()) == 200
        assert "could not be stored" in caplog.text

    @each_error
    async def test_what_cannot_be_read_or_written_is_tried_again(
        self, error: Exception, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("tgmembership_async.webhooks.worker._FIRST_PAUSE", 0.01)
        seen, inbox = Seen(), Broken(path, error)
        inbox.failures["claim"] = 3
        inbox.failures["settle"] = 3
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            await deliver(to, body())
            assert await settled(inbox) == [EntryStatus.DONE]
        assert seen.attempts == [1]
        assert caplog.text.count("the inbox fails") == 3
        assert caplog.text.count("cannot be written") == 3

    async def test_an_unexpected_error_about_one_entry_stops_no_other(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[Event] = []

        async def explained(_: Worker, __: Entry, event: Event) -> Event:
            calls.append(event)
            if len(calls) == 1:
                raise LookupError
            return event

        monkeypatch.setattr(Worker, "_explained", explained)
        seen, inbox = Seen(), SqliteInbox(path)
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            for number in (1, 2):
                await deliver(to, body(number))
            assert await settled(inbox) == [EntryStatus.DONE] * 2
        assert sorted(seen.attempts) == [1, 2]
        assert "could not be processed" in caplog.text

    async def test_while_closing_it_gives_up_and_the_next_start_does_it(self, path: Path) -> None:
        seen, inbox, began = Seen(), Broken(path), asyncio.Event()
        async with (to := receiver(inbox)):

            @to.on(Event)
            async def slow(_: Event) -> None:
                began.set()
                await asyncio.sleep(0.02)
                inbox.failures["settle"] = 1

            await deliver(to, body())
            await began.wait()
        async with (to := receiver(inbox)):
            to.on(Event)(seen)
            assert await settled(inbox) == [EntryStatus.DONE]
        assert seen.attempts == [2]

    async def test_an_inbox_closed_under_it_ends_the_work(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL, "tgmembership_async.webhooks")
        inbox = SqliteInbox(path)
        async with receiver(inbox) as to:
            await deliver(to, body())
            await settled(inbox)
            await inbox.aclose()
        assert not caplog.text
