"""A delivery is in the inbox's file before it is answered with 200: a crash after the response loses nothing."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from canary import CANARY_SECRET
from webhook_deliveries import Seen, body, signed

from tgmembership_async.webhooks import EntryStatus, Event, Receiver, SqliteInbox, Verifier

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def receiver(path: Path, **options: Any) -> Receiver:
    return Receiver(Verifier(CANARY_SECRET), SqliteInbox(path), **options)


class Client:
    """An ASGI client that copies the inbox's files right when the response begins."""

    def __init__(self, to: Receiver, folder: Path, copies: Path) -> None:
        self.to, self.folder, self.copies = to, folder, copies
        self.statuses: list[int] = []

    async def post(self, content: bytes, number: int) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": content}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                shutil.copytree(self.folder, self.copies / str(number))
                self.statuses.append(message["status"])

        headers = [(name.encode(), value.encode()) for name, value in signed(content).items()]
        await self.to.asgi({"type": "http", "method": "POST", "headers": headers}, receive, send)


def test_the_file_as_it_was_at_the_answer_holds_the_delivery(tmp_path: Path, run: Run) -> None:
    folder, copies = tmp_path / "inbox", tmp_path / "copies"
    folder.mkdir()
    copies.mkdir()

    async def scenario() -> None:
        async with receiver(folder / "inbox.db", background=False) as to:
            client = Client(to, folder, copies)
            for number in range(10):
                await client.post(body(number), number)  # one at a time, so that each copy is consistent
            assert client.statuses == [200] * 10
        for number in range(10):
            seen = Seen()
            async with receiver(copies / str(number) / "inbox.db", background=False) as restarted:
                restarted.on(Event)(seen)
                await restarted.process_pending()
            assert sorted(event.data["order_id"] for event in seen.events) == list(range(number + 1))

    run(scenario)


@pytest.mark.parametrize("sabotage", ["read-only table", "no table", "closed"])
def test_what_cannot_be_stored_is_never_answered_200(sabotage: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "inbox.db"

    async def scenario() -> None:
        async with receiver(path, background=False) as to:
            assert isinstance(to.inbox, SqliteInbox)
            if sabotage == "closed":
                await to.inbox.aclose()
            else:
                statement = {
                    "read-only table": "CREATE TRIGGER n BEFORE INSERT ON delivery BEGIN SELECT RAISE(ABORT, ''); END",
                    "no table": "DROP TABLE delivery",
                }[sabotage]
                with contextlib.closing(sqlite3.connect(path)) as other:
                    other.execute(statement)
            answer = await to.handle(signed(body()), body())
            assert answer.status == 503
            assert dict(answer.headers)["retry-after"] == "30"

    run(scenario)


def test_a_full_disk_answers_503_and_keeps_what_was_there(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "inbox.db"

    async def scenario() -> None:
        async with receiver(path, background=False) as to:
            assert isinstance(to.inbox, SqliteInbox)
            assert (await to.handle(signed(body(1)), body(1))).status == 200
            await to.inbox._storage.write(_no_more_pages)
            big = body(2, note="x" * 60_000)
            assert (await to.handle(signed(big), big)).status == 503
            await to.inbox._storage.write(_pages_again)
            assert (await to.handle(signed(big), big)).status == 200
            stored = [entry.delivery.body for entry in await to.inbox.entries([EntryStatus.STORED])]
            assert stored == [body(1), big]

    run(scenario)


def _no_more_pages(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count=1")  # SQLite then limits the file to its current size


def _pages_again(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count=1000000")
