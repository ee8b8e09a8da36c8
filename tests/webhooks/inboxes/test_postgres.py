"""PostgresInbox: what several processes that receive for one shop promise each other."""

from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from own_schema import own_schema

from tgmembership_async.errors import UsageError
from tgmembership_async.webhooks import Delivery, EntryStatus, PostgresInbox
from tgmembership_async.webhooks.inbox import Arrival, Receipt, Verdict

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def url() -> Iterator[str]:
    with own_schema() as found:
        yield found


def arrival(number: int, fingerprint: str | None = None) -> Arrival:
    delivery = Delivery(NOW, "nonce", b"body", f"{number:0128x}")
    return Arrival(delivery, NOW + timedelta(microseconds=number), "order_completed", fingerprint or f"f{number}")


def test_each_delivery_is_handed_to_one_of_many(url: str, run: Run) -> None:
    async def scenario() -> None:
        taken: list[int] = []

        async def work(inbox: PostgresInbox) -> None:
            while entries := await inbox.claim(3, NOW + timedelta(hours=1)):
                taken.extend([entry.id for entry in entries])
                for entry in entries:
                    await inbox.settle(entry.id, Verdict(EntryStatus.DONE))

        async with PostgresInbox(url) as one, PostgresInbox(url) as two:
            for number in range(40):
                await one.store(arrival(number), repeat_window=0)
            async with anyio.create_task_group() as group:
                for inbox in (one, two, one, two):
                    group.start_soon(work, inbox)
            assert sorted(taken) == list(range(1, 41))
            assert {entry.status for entry in await two.entries()} == {EntryStatus.DONE}

    run(scenario)


def test_the_reason_of_a_replay_stays_if_the_handlers_succeed(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresInbox(url) as inbox:
            await inbox.store(arrival(1), repeat_window=0)
            for verdict, note in (
                (Verdict(EntryStatus.DEAD, note="why"), "why"),
                (Verdict(EntryStatus.DONE), "replayed: fixed"),
            ):
                await inbox.claim(1, NOW + timedelta(hours=1))
                await inbox.settle(1, verdict)
                assert [entry.note for entry in await inbox.entries()] == [note]
                if verdict.status is EntryStatus.DEAD:
                    await inbox.retry(1, "fixed")

    run(scenario)


def test_of_two_deliveries_of_one_event_at_once_one_is_a_repeat(url: str, run: Run) -> None:
    async def scenario() -> None:
        receipts: list[Receipt] = []

        async def store(inbox: PostgresInbox, number: int) -> None:
            receipts.append(await inbox.store(arrival(number, "the same"), repeat_window=3_600))

        async with PostgresInbox(url) as one, PostgresInbox(url) as two, anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(store, (one, two)[number % 2], number)
        assert sorted(receipt.status for receipt in receipts) == [EntryStatus.REPEAT] * 9 + [EntryStatus.STORED]

    run(scenario)


def test_what_a_process_was_handling_when_it_was_lost_is_handed_out_again(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresInbox(url) as lost, PostgresInbox(url) as other:
            await lost.store(arrival(1), repeat_window=0)
            assert len(await lost.claim(1, NOW + timedelta(hours=1))) == 1
            async with PostgresInbox(url):
                assert [entry.status for entry in await other.entries()] == [EntryStatus.PROCESSING], "it lives"
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("UPDATE tgm_worker SET lease_until = now() - interval '1 s'")
            async with PostgresInbox(url):
                pass
            (entry,) = await other.claim(1, NOW + timedelta(hours=1))
            assert entry.attempts == 2
            with pytest.raises(UsageError, match="taken for dead"):
                await lost.settle(entry.id, Verdict(EntryStatus.DONE))
            await other.settle(entry.id, Verdict(EntryStatus.DONE))

    run(scenario)


def test_text_that_no_database_keeps_does_not_stop_it(url: str, run: Run) -> None:
    async def scenario() -> None:
        async with PostgresInbox(url) as inbox:
            odd = Arrival(Delivery(NOW, "n", b"\0", "ab" * 64), NOW, "a\0\ud800", "f", "\0")
            await inbox.store(odd, repeat_window=0)
            (entry,) = await inbox.claim(1, NOW)
            assert (entry.name, entry.delivery.body) == ("a\\x00\\ud800", b"\0")
            await inbox.settle(entry.id, Verdict(EntryStatus.DEAD, note="\0\udfff"))
            assert [entry.note for entry in await inbox.entries()] == ["\\x00\\udfff"]

    run(scenario)
