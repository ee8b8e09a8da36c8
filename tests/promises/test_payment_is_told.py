"""A process that joins payments, killed at random moments: each payment is told, with its user, and none is lost."""

import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from killed_receiver import Shop, until
from own_schema import own_schema

from tgmembership_async.testing import FakeProject, Postal, serve
from tgmembership_async.webhooks import EntryStatus, PostgresInbox, SqliteInbox

SERVER = Path(__file__).parents[1] / "joining_server.py"
FIRST_USER = 1_000
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


# A killed process may look alive to PostgreSQL for 15 seconds.
@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.soak)])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield "sqlite"
    else:
        with own_schema() as url:
            yield url


def sell(fake: FakeProject, payments: int, chance: random.Random) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Let users pay; return what is to be told of each payment, and the payments whose membership comes later."""
    wanted: dict[str, tuple[str, str]] = {}
    late: list[str] = []
    for number in range(payments):
        user, what = FIRST_USER + number % (payments // 2), chance.choice(["late", "late", "at once", "top-up"])
        payment = fake.top_up(user, "5.00") if what == "top-up" else fake.pay(user, with_membership=what == "at once")
        wanted[payment] = ("BalanceToppedUp" if what == "top-up" else "MembershipPaid", str(user))
        late += [payment] if what == "late" else []
    chance.shuffle(late)
    return wanted, late


def crash(database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, payments: int, kills: int) -> None:
    chance = random.Random()
    fake = FakeProject(per_minute=None, burst=None)
    shop = Shop(SERVER, database, folder)
    (folder / "secret").write_text(fake.set_webhook(shop.url).secret)
    wanted, late = sell(fake, payments, chance)
    postal = Postal(attempts=14, pause=0.02, duplicated=0.2, shuffled=True, signed_anew=chance.random() < 0.5)
    with shop, serve(fake, postal=postal) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        shop.start()
        share = -(-len(late) // (kills + 1))
        for turn in range(kills + 1):
            giving = threading.Thread(target=give, args=(fake, late[turn * share : (turn + 1) * share], chance))
            giving.start()
            if turn < kills:
                goal = chance.randrange(len(wanted) * (turn + 1) // (kills + 2))
                until(lambda: len(shop.handled) >= goal, "nothing is told")  # noqa: B023 - called before the next turn
                shop.stop(signal.SIGKILL)
                shop.start()
            giving.join()
        until(lambda: {words[1] for words in shop.handled} >= wanted.keys(), "not every payment was told")
        assert shop.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
        check(shop, wanted)
        assert statuses(database, folder) <= {EntryStatus.DONE, EntryStatus.REPEAT}


def give(fake: FakeProject, late: list[str], chance: random.Random) -> None:
    for payment in late:
        threading.Event().wait(chance.random() / 100)
        fake.give_membership(payment)


def check(shop: Shop, wanted: dict[str, tuple[str, str]]) -> None:
    told = [(pid, payment, (kind, user)) for pid, payment, kind, user, _ in shop.handled]
    assert {payment: what for _, payment, what in told} == wanted
    assert all(wanted[payment] == what for _, payment, what in told)
    in_one_run = Counter((pid, payment) for pid, payment, _ in told)
    assert [key for key, count in in_one_run.items() if count > 1] == [], "told again by the process that told it"


def statuses(database: str, folder: Path) -> set[EntryStatus]:
    async def read() -> set[EntryStatus]:
        inbox = SqliteInbox(folder / "inbox.db") if database == "sqlite" else PostgresInbox(database)
        async with inbox:
            return {entry.status for entry in await inbox.entries(limit=100_000)}

    return anyio.run(read)


def test_no_payment_is_lost_when_the_process_is_killed(
    database: str, quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 payments, 20 % doubled, shuffled, half of them before their membership, two kills."""
    crash(database, quick_path, monkeypatch, payments=30, kills=2)


@pytest.mark.soak
def test_no_payment_of_three_thousand_is_lost(database: str, quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 payments, eight kills."""
    crash(database, quick_path, monkeypatch, payments=3_000, kills=8)
