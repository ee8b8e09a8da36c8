"""`examples/aiogram_bot.py` as a child process with a fake Telegram and a fake service, killed at critical points."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from fake_telegram import CUSTOMER, TOKEN, FakeTelegram
from forked import CAN_FORK, Forked, Forks

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService, Fault
from tgmembership_async.testing import serve as serve_fake

EXAMPLE = Path(__file__).parents[2] / "examples" / "aiogram_bot.py"

LOADED = (
    "aiogram.client.session.aiohttp",
    "anyio._backends._asyncio",
    "tgmembership_async.ext.aiogram",
    "tgmembership_async.grants.sqlite.ledger",
    "tgmembership_async.transport.httpx",
)
Process = subprocess.Popen[bytes]
Start = Callable[[], AbstractAsyncContextManager[Process]]


@pytest.fixture
def forks() -> Iterator[str | None]:
    """Have aiogram loaded once for all runs of the bot: it takes five seconds."""
    if CAN_FORK:
        with Forks(*LOADED) as forks:
            yield forks.address
    else:
        yield None


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as telegram:
        yield telegram


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def start(telegram: FakeTelegram, service: FakeService, tmp_path: Path, forks: str | None) -> Start:
    """Run the bot beside the test, and end it at the end."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Process]:
        with serve_fake(service) as server:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **server.env(),
                "PYTHONPATH": str(EXAMPLE.parents[1]),  # the package beside the example, installed or not
                "TELEGRAM_BOT_TOKEN": TOKEN,
                "TELEGRAM_API_URL": telegram.url,
                "GRANTS_DB": str(tmp_path / "grants.db"),
            }
            process = await asyncio.to_thread(Forked, [sys.executable, EXAMPLE], forks=forks, env=environment)
            try:
                yield process
            finally:
                process.kill()
                await ended(process)

    return start


async def ended(process: Process) -> int:
    return await asyncio.to_thread(process.wait, 60)


async def becomes(wanted: GrantStatus, ref: str, folder: Path) -> bool:
    """Look into the ledger, beside the bot, until the payment has this state."""
    async with asyncio.timeout(180), SqliteLedger(folder / "grants.db", owner=False) as ledger:
        while (grant := await ledger.get(ref)) is None or grant.status is not wanted:  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.02)
    return True


async def sell(telegram: FakeTelegram) -> str:
    """Let the customer buy, up to the invoice and the question whether to let her pay; return the invoice's payload."""
    telegram.write("/buy")
    await telegram.until(lambda: telegram.said("sendInvoice"))
    (invoice,) = telegram.said("sendInvoice")
    assert (invoice["currency"], invoice["prices"][0]["amount"]) == ("XTR", 250)
    telegram.check_out(str(invoice["payload"]))
    await telegram.until(lambda: telegram.said("answerPreCheckoutQuery"))
    assert telegram.said("answerPreCheckoutQuery")[0]["ok"] is True
    return str(invoice["payload"])


def links(telegram: FakeTelegram) -> list[str]:
    return [text.rpartition(" ")[2] for message in telegram.said() if "access: " in (text := message["text"])]


async def test_killed_twice_it_grants_each_payment_once_and_every_customer_hears_of_it(
    telegram: FakeTelegram, service: FakeService, start: Start, tmp_path: Path
) -> None:
    service.inject(Fault("latency", method="addMember", when="after", seconds=60))
    async with start() as bot:
        in_doubt = telegram.pay("4", charge="in-doubt")
        async with asyncio.timeout(180):
            while not service.audit:  # noqa: ASYNC110 - another thread's doing
                await asyncio.sleep(0.02)
        bot.kill()  # in the exchange
    service.heal()
    telegram.repeat(in_doubt)

    async with start() as bot:
        await telegram.until(lambda: telegram.said() and telegram.confirmed(in_doubt))
        assert await becomes(GrantStatus.UNKNOWN, "telegram:in-doubt", tmp_path)
        telegram.paused.add("sendMessage")
        granted = telegram.pay(await sell(telegram), charge="granted")
        await telegram.until(lambda: len(service.tokens) == 2 and links(telegram) == [service.tokens[1].link])
        bot.kill()  # the link is on its way, and nobody says that it arrived
    telegram.resume()
    telegram.repeat(granted)

    async with start() as bot:
        assert await becomes(GrantStatus.DELIVERED, "telegram:granted", tmp_path)
        await telegram.until(lambda: telegram.confirmed(granted))
        bot.send_signal(signal.SIGTERM)
        assert await ended(bot) == 0

    assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(4, CUSTOMER["id"])] * 2
    assert "looking into" in telegram.said()[0]["text"]
    assert links(telegram) == [service.tokens[1].link] * 2
    assert await becomes(GrantStatus.UNKNOWN, "telegram:in-doubt", tmp_path)
