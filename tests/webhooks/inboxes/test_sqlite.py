"""The inbox in a file: what is kept, what counts as the same, who gets what when, and what a restart finds."""

import sqlite3
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from own_schema import own_schema

from tgmembership_async.errors import StorageError, UsageError
from tgmembership_async.storage.binding import Binding
from tgmembership_async.storage.component import Component
from tgmembership_async.webhooks import Delivery, EntryStatus, Inbox, PostgresInbox, SqliteInbox
from tgmembership_async.webhooks.inbox import Arrival, Receipt, Verdict
from tgmembership_async.webhooks.inboxes import postgres as postgres_inbox
from tgmembership_async.webhooks.inboxes import sqlite as sqlite_inbox

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STORED, DONE, DEAD = EntryStatus.STORED, EntryStatus.DONE, EntryStatus.DEAD
PROCESSING, REPEAT, UNREADABLE = EntryStatus.PROCESSING, EntryStatus.REPEAT, EntryStatus.UNREADABLE


Make = Callable[..., SqliteInbox | PostgresInbox]


@pytest.fixture
def path(quick_path: Path) -> Path:
    return quick_path / "inbox.db"


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, path: Path) -> Iterator[Make]:
    """Make an inbox, always the same; the second one beside it is told so."""
    if request.param == "sqlite":
        yield partial(SqliteInbox, path)
    else:
        with own_schema() as url:
            yield lambda bot_id=None, **_: PostgresInbox(url, bot_id=bot_id)


def arrival(number: int = 1, *, fingerprint: str | None = "", at: datetime = NOW) -> Arrival:
    """Return a delivery with a digest of its own, of an event of its own unless `fingerprint` says otherwise."""
    print_ = f"f{number}" if fingerprint == "" else fingerprint
    delivery = Delivery(NOW, "nonce", b"body %d" % number, f"{number:0128x}")
    return Arrival(delivery, at, None if print_ is None else "order_completed", print_)


async def put(inbox: Inbox, *arrivals: Arrival, window: float = 3600) -> list[Receipt]:
    return [await inbox.store(one, repeat_window=window) for one in arrivals]


async def statuses(inbox: Inbox) -> list[EntryStatus]:
    return [entry.status for entry in await inbox.entries()]


def test_what_was_stored_comes_out_as_it_went_in(make: Make, run: Run) -> None:
    async def scenario() -> None:
        async with make() as inbox:
            assert isinstance(inbox, Inbox)
            assert await put(inbox, arrival()) == [Receipt(new=True, status=STORED)]
            [entry] = await inbox.entries()
            assert entry.delivery == arrival().delivery
            assert (entry.received_at, entry.name, entry.fingerprint) == (NOW, "order_completed", "f1")
            assert (entry.attempts, entry.due_at, entry.handled, entry.note) == (0, NOW, frozenset(), "")

    run(scenario)


def test_text_that_no_database_takes_is_kept_in_another_spelling(make: Make, run: Run) -> None:
    async def scenario() -> None:
        async with make() as inbox:
            await put(inbox, evolve(arrival(), name="odd \ud83d\0 event", note="half \udc00 a pair"))
            [entry] = await inbox.claim(10, NOW)
            assert (entry.name, entry.note) == ("odd \\ud83d\\x00 event", "half \\udc00 a pair")
            await inbox.settle(entry.id, Verdict(DEAD, note="said \ud83d"))
            [entry] = await inbox.entries()
            assert entry.note == "said \\ud83d"

    run(scenario)


def test_it_is_there_after_a_restart(make: Make, run: Run) -> None:
    async def scenario() -> None:
        for _ in range(2):
            async with make() as inbox:
                await put(inbox, arrival())
        async with make() as inbox:
            assert await statuses(inbox) == [STORED]

    run(scenario)


class TestTheSame:
    def test_a_delivery_is_stored_once_for_ever(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                later = arrival(1, at=NOW + timedelta(days=400))
                first, second = await put(inbox, arrival(1), later)
                assert (first.new, second.new) == (True, False)
                assert len(await inbox.entries()) == 1

        run(scenario)

    def test_an_event_within_the_window_is_a_repeat_and_kept(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                same = [
                    arrival(number, fingerprint="f", at=NOW + timedelta(seconds=100 * number)) for number in range(4)
                ]
                receipts = await put(inbox, *same, window=250)
                assert [receipt.status for receipt in receipts] == [STORED, REPEAT, REPEAT, STORED]

        run(scenario)

    def test_without_a_window_there_are_no_repeats(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                receipts = await put(inbox, arrival(1, fingerprint="f"), arrival(2, fingerprint="f"), window=0)
                assert [receipt.status for receipt in receipts] == [STORED, STORED]

        run(scenario)

    def test_what_is_unreadable_is_kept_and_never_a_repeat(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                one, two = arrival(1, fingerprint=None), arrival(2, fingerprint=None)
                receipts = await put(inbox, one, two, one)
                assert [receipt.status for receipt in receipts] == [UNREADABLE] * 3
                assert await inbox.claim(9, NOW) == []

        run(scenario)


class TestClaims:
    def test_the_oldest_that_are_due_are_taken_and_counted(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, *(arrival(number) for number in range(5)), arrival(9, at=NOW + timedelta(hours=1)))
                first, second, none = [await inbox.claim(limit, NOW) for limit in (3, 3, 3)]
                assert [entry.id for entry in first] == [1, 2, 3]
                assert [entry.id for entry in second] == [4, 5]
                assert none == []
                assert {(entry.attempts, entry.status) for entry in (*first, *second)} == {(1, PROCESSING)}
                assert await inbox.next_due() == NOW + timedelta(hours=1)

        run(scenario)

    def test_what_is_stored_again_waits_until_it_is_due(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                [entry] = await inbox.claim(1, NOW)
                later = NOW + timedelta(seconds=5)
                await inbox.settle(entry.id, Verdict(STORED, frozenset({"a", "ä"}), "no luck", later))
                assert await inbox.claim(1, NOW) == []
                [again] = await inbox.claim(1, later)
                assert (again.attempts, again.handled, again.note) == (2, frozenset({"a", "ä"}), "no luck")
                assert await inbox.next_due() is None

        run(scenario)

    def test_what_is_not_being_processed_cannot_be_settled(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                for entry_id in (1, 77):
                    with pytest.raises(UsageError, match="not being processed"):
                        await inbox.settle(entry_id, Verdict(DONE))

        run(scenario)

    def test_what_a_dead_owner_was_processing_is_stored_again(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival(1), arrival(2))
                await inbox.claim(1, NOW)
            async with make() as inbox:
                assert await statuses(inbox) == [STORED, STORED]
                assert [entry.attempts for entry in await inbox.claim(9, NOW)] == [2, 1]

        run(scenario)


class TestOperators:
    def test_entries_come_in_pages_and_by_state(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, *(arrival(number) for number in range(7)))
                await inbox.claim(2, NOW)
                assert [entry.id for entry in await inbox.entries([PROCESSING])] == [1, 2]
                assert [entry.id for entry in await inbox.entries([STORED], after=4, limit=2)] == [5, 6]
                assert await inbox.entries([]) == []

        run(scenario)

    @pytest.mark.parametrize("status", [DEAD, UNREADABLE, REPEAT])
    def test_what_rests_is_handed_out_again_on_demand(self, make: Make, run: Run, status: EntryStatus) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                await inbox.claim(1, NOW)
                await inbox.settle(1, Verdict(status, note="why"))
                async with make(owner=False) as beside:
                    await beside.retry(1)
                [entry] = await inbox.claim(1, NOW)
                assert (entry.attempts, entry.note) == (1, "why")

        run(scenario)

    def test_a_dead_entry_that_is_dropped_is_done_and_says_why(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                await inbox.claim(1, NOW)
                await inbox.settle(1, Verdict(DEAD, note="why"))
                async with make(owner=False) as beside:
                    await beside.drop(1, "refunded \0")
                    with pytest.raises(UsageError, match="no delivery 1 that is dead"):
                        await beside.drop(1, "again")
                [entry] = await inbox.entries()
                assert (entry.status, entry.note) == (DONE, r"dropped: refunded \x00")
                later = arrival(at=NOW + timedelta(hours=1))
                assert await put(inbox, later) == [Receipt(new=False, status=DONE)]

        run(scenario)

    def test_the_reason_of_a_replay_stays_if_the_handlers_succeed(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                for verdict, note in ((Verdict(DEAD, note="why"), "why"), (Verdict(DONE), "replayed: fixed \\x00")):
                    await inbox.claim(1, NOW)
                    await inbox.settle(1, verdict)
                    assert [entry.note for entry in await inbox.entries()] == [note]
                    if verdict.status is DEAD:
                        await inbox.retry(1, "fixed \0")

        run(scenario)

    def test_what_is_on_its_way_is_not_handed_out_twice(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
                with pytest.raises(UsageError, match="no delivery 1 that is dead"):
                    await inbox.retry(1)

        run(scenario)

    def test_purging_deletes_what_is_done_and_old(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, *(arrival(number, at=NOW + timedelta(hours=number)) for number in range(5)))
                for entry in await inbox.claim(4, NOW + timedelta(days=1)):
                    await inbox.settle(entry.id, Verdict(DEAD if entry.id == 1 else DONE))
                assert await inbox.purge(NOW + timedelta(hours=3)) == 2
                assert await statuses(inbox) == [DEAD, DONE, STORED]

        run(scenario)

    def test_what_was_purged_is_known_when_it_comes_again(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            second = timedelta(seconds=1)
            came = [
                arrival(1),
                arrival(2, fingerprint="f1", at=NOW + second),
                arrival(3, fingerprint=None),
                arrival(4, at=NOW + timedelta(days=1)),
            ]
            for days in range(2):  # the second time after a restart
                async with make() as inbox:
                    again = [evolve(one, received_at=one.received_at + timedelta(days=days)) for one in came]
                    receipts = await put(inbox, *again)
                    for entry in await inbox.claim(9, NOW):
                        await inbox.settle(entry.id, Verdict(DONE))
                    purged = await inbox.purge(NOW + timedelta(hours=1))
                    assert await statuses(inbox) == [STORED]
            assert purged == 0
            assert [(receipt.new, receipt.status) for receipt in receipts] == [
                (False, DONE),
                (False, REPEAT),
                (False, UNREADABLE),
                (False, STORED),
            ]

        run(scenario)

    def test_an_inbox_of_the_first_version_is_brought_up_to_date(
        self, make: Make, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            with monkeypatch.context() as before:
                for module in (sqlite_inbox, postgres_inbox):
                    before.setattr(module, "INBOX", Component("inbox", module.INBOX.migrations[:1]))
                async with make():
                    pass
            async with make() as inbox:
                await put(inbox, arrival(1, fingerprint=None))
                assert await inbox.purge(NOW + timedelta(hours=1)) == 1
                assert not (await put(inbox, arrival(1, fingerprint=None, at=NOW + timedelta(hours=2))))[0].new

        run(scenario)

    def test_an_event_that_was_purged_is_a_repeat_when_it_comes_signed_anew(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival(1), arrival(2, fingerprint="f1", at=NOW + timedelta(seconds=90)))
                for entry in await inbox.claim(9, NOW):
                    await inbox.settle(entry.id, Verdict(DONE))
                assert await inbox.purge(NOW + timedelta(days=1)) == 2
                again = [arrival(3 + n, fingerprint="f1", at=NOW + timedelta(seconds=99 + n)) for n in range(2)]
                assert [receipt.status for receipt in await put(inbox, *again, window=100)] == [REPEAT, STORED]

        run(scenario)

    def test_beside_the_owner_nothing_is_received(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            async with SqliteInbox(path), SqliteInbox(path, owner=False) as beside:
                for act in (put(beside, arrival()), beside.claim(1, NOW), beside.settle(1, Verdict(DONE))):
                    with pytest.raises(UsageError, match="only its owner"):
                        await act

        run(scenario)


class TestTheFile:
    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
    def test_it_is_its_owners_alone(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            async with SqliteInbox(path) as inbox:
                await put(inbox, arrival())

        run(scenario)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_second_owner_is_told_so(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            async with SqliteInbox(path):
                second = SqliteInbox(path)
                with pytest.raises(UsageError, match="in use"):
                    await second.open()
                assert repr(second) == f"<SqliteInbox at {path}, not open>"

        run(scenario)

    def test_a_damaged_file_is_a_storage_error(self, path: Path, run: Run) -> None:
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)

        async def scenario() -> None:
            with pytest.raises((StorageError, UsageError)):
                await SqliteInbox(path).open()

        run(scenario)

    def test_a_take_over_that_fails_lets_go_of_the_file(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            async with SqliteInbox(path) as inbox:
                await put(inbox, arrival())
                await inbox.claim(1, NOW)
            broken = sqlite3.connect(path)
            broken.execute("CREATE TRIGGER no BEFORE UPDATE ON delivery BEGIN SELECT RAISE(ABORT, 'no'); END")
            broken.close()
            for _ in range(2):
                inbox = SqliteInbox(path)
                with pytest.raises(StorageError):
                    await inbox.open()
                assert not inbox.is_open

        run(scenario)


class TestBindings:
    def test_an_inbox_of_another_bot_is_refused(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make(bot_id=7) as inbox:
                await put(inbox, arrival())
            another = make(bot_id=8)
            with pytest.raises(UsageError, match=r"belongs to bot 7, and this is bot 8, .* an inbox of its own"):
                await another.open()
            assert not another.is_open
            async with make(bot_id=7) as inbox:
                assert await statuses(inbox) == [STORED]

        run(scenario)

    def test_an_inbox_that_was_not_told_a_bot_is_bound_later(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                await put(inbox, arrival())
            async with make(bot_id=7) as inbox:
                assert await statuses(inbox) == [STORED]
            async with make():
                pass
            with pytest.raises(UsageError, match="belongs to bot 7"):
                await make(bot_id=8).open()

        run(scenario)

    def test_an_inbox_of_another_service_is_refused(self, make: Make, run: Run) -> None:
        async def scenario() -> None:
            async with make() as inbox:
                assert await inbox.bind("https://test.example", 7, record=False) == Binding("https://test.example", 7)
                for _ in range(2):
                    assert await inbox.bind("https://live.example", 7) == Binding("https://live.example", 7)
                for service, bot_id in (("https://test.example", 7), ("https://live.example", 8), ("", 8)):
                    with pytest.raises(UsageError, match=r"belongs to bot 7\b"):
                        await inbox.bind(service, bot_id)
            async with make(bot_id=7):
                pass

        run(scenario)

    def test_beside_the_owner_another_bot_is_refused_and_none_is_recorded(self, path: Path, run: Run) -> None:
        async def scenario() -> None:
            async with SqliteInbox(path) as inbox:
                async with SqliteInbox(path, owner=False, bot_id=8):
                    pass
                await inbox.bind("", 7)
                with pytest.raises(UsageError, match="belongs to bot 7"):
                    await SqliteInbox(path, owner=False, bot_id=8).open()

        run(scenario)

    def test_a_bot_id_is_a_positive_number(self, make: Make) -> None:
        with pytest.raises(UsageError, match="bot_id must be a positive int"):
            make(bot_id=0)
