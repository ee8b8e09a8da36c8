"""Real servers, killed by SIGKILL and restarted while they are fed: nothing stored is lost, nothing forged handled."""

import contextlib
import json
import random
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
from killed_receiver import Shop, until

from tgmembership_async.testing import Courier, FakeService, Postal

SERVER = Path(__file__).parents[1] / "webhook_server.py"
every_server = pytest.mark.parametrize("kind", ["uvicorn", "aiohttp"])
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


async def deliver_with_kills(fake: FakeService, shop: Shop, kills: int) -> None:
    """Deliver all, and meanwhile kill the server at random points of the way."""
    total, chance = len(fake.outbox.events), random.Random()
    points = sorted(chance.sample(range(total // 10, total), kills))
    postal = Postal(
        attempts=14,
        pause=0.02,
        duplicated=0.05,
        forged=0.01,
        shuffled=True,
        concurrency=32,
        signed_anew=chance.random() < 0.5,
    )

    async def kill() -> None:
        for point in points:
            while len(fake.outbox.deliveries) < point:  # noqa: ASYNC110 - the fake has no event for it
                await anyio.sleep(0.001)
            await anyio.to_thread.run_sync(shop.stop, signal.SIGKILL)
            await anyio.to_thread.run_sync(shop.start)

    async with anyio.create_task_group() as group:
        group.start_soon(kill)
        await Courier(fake, postal, seed=chance.randrange(2**32)).deliver()


def crash(kind: str, folder: Path, deliveries: int, kills: int) -> None:
    fake = FakeService()
    shop = Shop(SERVER, kind, folder)
    webhook = fake.set_webhook(shop.url)
    (folder / "secret").write_text(webhook.secret)
    for number in range(deliveries):
        fake.tell("order_completed", {"order_id": str(number)})
    wanted = {str(number) for number in range(deliveries)}
    with shop:
        shop.start()
        anyio.run(deliver_with_kills, fake, shop, kills)
        until(lambda: {order for _, order, _, _ in shop.handled} >= wanted, "not everything was handled")
        until(lambda: not waiting(folder), "the inbox is not drained")
        assert shop.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    check(fake, shop, kills)


def waiting(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "inbox.db")) as connection:
        [count] = connection.execute("SELECT count(*) FROM delivery WHERE status NOT IN ('done', 'repeat')").fetchone()
    return int(count)


def check(fake: FakeService, shop: Shop, kills: int) -> None:
    deliveries, handled = fake.outbox.deliveries, shop.handled
    answered = {json.dumps(dict(one.event.data)) for one in deliveries if one.status == 200}
    assert all(json.dumps(dict(event.data)) in answered for event in fake.outbox.events)
    assert {one.status for one in deliveries if one.kind == "forged"} <= {401, None}
    assert {forged for *_, forged in handled} == {"no"}
    assert len({pid for pid, *_ in handled}) <= kills + 1
    in_one_run = Counter((pid, order) for pid, order, *_ in handled)
    assert [key for key, count in in_one_run.items() if count > 1] == []
    assert {int(attempt) for _, _, attempt, _ in handled} <= set(range(1, kills + 2))


@every_server
def test_nothing_is_lost_when_the_server_is_killed(kind: str, tmp_path: Path) -> None:
    """300 deliveries, 1 % forged, 5 % doubled, shuffled, 32 at a time, two kills."""
    crash(kind, tmp_path, deliveries=300, kills=2)


@pytest.mark.soak
@every_server
def test_nothing_is_lost_of_ten_thousand(kind: str, tmp_path: Path) -> None:
    """10,000 deliveries, three kills."""
    crash(kind, tmp_path, deliveries=10_000, kills=3)
