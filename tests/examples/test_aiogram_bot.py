"""`examples/aiogram_bot.py` as a child process with a fake Telegram and a fake service, killed at critical points."""

import ast
import asyncio
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest
from crash_bot import EXAMPLE, OWNER
from fake_telegram import CUSTOMER, TOKEN, FakeTelegram
from forked import SHOPS, Forked
from ports import free_port

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService, Fault
from tgmembership_async.testing import serve as serve_fake

if sys.platform == "linux":
    import resource

Process = subprocess.Popen[bytes]
Start = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.mark.parametrize("missing", ["TELEGRAM_BOT_TOKEN", "TELEGRAM_OWNER_IDS"])
def test_a_missing_variable_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_OWNER_IDS"):
        monkeypatch.setenv(name, "" if name == missing else "42:token")
    with pytest.raises(SystemExit, match=f"^set {missing}$"):
        runpy.run_path(str(EXAMPLE))


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as telegram:
        yield telegram


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def start(telegram: FakeTelegram, service: FakeService, tmp_path: Path) -> Start:
    """Run the bot beside the test, and end it at the end; `away`: while it runs nobody serves."""

    @asynccontextmanager
    async def start(*, away: bool = False) -> AsyncIterator[Process]:
        with serve_fake(service) as server:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                **server.env(),
                **({"TGMEMBERSHIP_BASE_URL": f"http://127.0.0.1:{free_port()}"} if away else {}),
                "PYTHONPATH": str(EXAMPLE.parents[1]),  # the package beside the example, installed or not
                "TELEGRAM_BOT_TOKEN": TOKEN,
                "TELEGRAM_API_URL": telegram.url,
                "TELEGRAM_OWNER_IDS": str(OWNER),
                "GRANTS_DB": str(tmp_path / "grants.db"),
            }
            process = await asyncio.to_thread(Forked, [sys.executable, EXAMPLE], forks=SHOPS, env=environment)
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
    """Return the links that customers got, as buttons."""
    rows = [row for said in telegram.said() for row in said.get("reply_markup", {}).get("inline_keyboard", [])]
    return [button["url"] for row in rows for button in row if "url" in button]


def told(telegram: FakeTelegram, chat_id: int) -> str:
    return "\n\n".join(said["text"] for said in telegram.said() if said["chat_id"] == chat_id)


def test_it_has_ten_lines() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    imports = ast.Import | ast.ImportFrom
    lines = {
        line
        for node in tree.body[1:]
        if not isinstance(node, imports)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    assert len(lines) == 10


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
    service.clear_faults()
    telegram.repeat(in_doubt)

    async with start() as bot:
        await telegram.until(lambda: len(telegram.said()) == 2 and telegram.confirmed(in_doubt))
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
    assert "looking into" in told(telegram, CUSTOMER["id"])
    assert told(telegram, OWNER).count("telegram:in-doubt") == 1, "asked once, over all restarts"
    assert links(telegram) == [service.tokens[1].link] * 2
    assert await becomes(GrantStatus.UNKNOWN, "telegram:in-doubt", tmp_path)


async def test_without_service_ledger_or_disk_nobody_is_let_pay_and_no_payment_is_lost(
    telegram: FakeTelegram, service: FakeService, start: Start, tmp_path: Path
) -> None:
    async with start(away=True) as bot:
        away = telegram.pay("4", charge="away")
        await telegram.until(lambda: telegram.confirmed(away))
        assert await let_pay(telegram) is False
        bot.send_signal(signal.SIGTERM)  # killed while it tries to connect, it would have to ask the owner
        assert await ended(bot) == 0

    async with start() as bot:
        assert await becomes(GrantStatus.DELIVERED, "telegram:away", tmp_path)
        assert await let_pay(telegram) is True
        with closing(sqlite3.connect(tmp_path / "grants.db", isolation_level=None, timeout=60)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await stays_unconfirmed(telegram, telegram.pay("4", charge="locked"))
            other.execute("ROLLBACK")
        assert await becomes(GrantStatus.DELIVERED, "telegram:locked", tmp_path)
        if sys.platform == "linux":
            limits = resource.prlimit(bot.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(bot.pid, resource.RLIMIT_FSIZE, (0, limits[1]))  # it can write to no file any more
            assert await let_pay(telegram) is False
            await stays_unconfirmed(telegram, telegram.pay("4", charge="full"))
            resource.prlimit(bot.pid, resource.RLIMIT_FSIZE, limits)
            assert await becomes(GrantStatus.DELIVERED, "telegram:full", tmp_path)
        bot.send_signal(signal.SIGTERM)
        assert await ended(bot) == 0

    assert sorted(links(telegram)) == sorted(str(token.link) for token in service.tokens)
    assert len(service.audit) == len(service.tokens)
    assert not told(telegram, OWNER)


async def let_pay(telegram: FakeTelegram) -> bool:
    """Ask whether the customer may pay."""
    asked = len(telegram.said("answerPreCheckoutQuery"))
    telegram.check_out("4")
    await telegram.until(lambda: len(telegram.said("answerPreCheckoutQuery")) > asked)
    return bool(telegram.said("answerPreCheckoutQuery")[-1]["ok"])


async def stays_unconfirmed(telegram: FakeTelegram, update: int) -> None:
    """See that an update that was handed out is not confirmed."""
    await asyncio.sleep(0.5)
    assert not telegram.confirmed(update)
