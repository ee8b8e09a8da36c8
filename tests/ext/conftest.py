"""What the frameworks work with: a service in this process, a Session on it and a Granter; none of them entered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any

import pytest
from fake_telegram import TOKEN, FakeTelegram
from selling_bot import OWNER, Sell, Selling

from tgmembership_async import Session
from tgmembership_async.fulfillment import Fulfillment, FulfillmentPolicy
from tgmembership_async.grants import Granter, Ledger, MemoryLedger
from tgmembership_async.testing import FakeService, FakeTransport


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def session(service: FakeService) -> Session:
    return Session(**service.session_options(), transport=FakeTransport(service))


@pytest.fixture
def granter(session: Session) -> Granter:
    return Granter(session, MemoryLedger())


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as telegram:
        yield telegram


@pytest.fixture(scope="session")
def ours() -> Any:
    """Import it where it is used: it takes five seconds, and every worker collects these tests."""
    return import_module("tgmembership_async.ext.aiogram")


@pytest.fixture
def sell(ours: Any, telegram: FakeTelegram, service: FakeService) -> Sell:
    """Make a bot that sells, and let it poll as long as the test is in the block."""

    @asynccontextmanager
    async def sell(ledger: Ledger | None = None, **options: Any) -> AsyncIterator[Selling]:
        aiogram = import_module("aiogram")
        http = import_module("aiogram.client.session.aiohttp").AiohttpSession
        server = import_module("aiogram.client.telegram").TelegramAPIServer
        bot = aiogram.Bot(TOKEN, session=http(api=server.from_base(telegram.url)))
        session = Session(**service.session_options(), transport=FakeTransport(service))
        texts = options.pop("texts", None)
        fulfillment = Fulfillment(
            Granter(session, ledger or MemoryLedger()),
            deliver=ours.deliver_link(bot, texts=texts),
            attention=ours.ask_owner(bot, [OWNER], texts=texts),
            policy=FulfillmentPolicy(backoff_base=0.01, backoff_cap=0.05),
            every=options.pop("every", 0.2),
            deadline=options.pop("deadline", 60),
        )
        dispatcher = aiogram.Dispatcher()
        ours.setup(dispatcher, session, fulfillment=fulfillment)
        dispatcher.include_routers(ours.shop_router(texts=texts, **options), ours.owner_router([OWNER], texts=texts))
        started = asyncio.Event()
        dispatcher.startup.register(started.set)
        polling = asyncio.create_task(
            dispatcher.start_polling(bot, handle_signals=False, handle_as_tasks=False, polling_timeout=1)
        )
        async with asyncio.timeout(60):
            await asyncio.wait({polling, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if not polling.done():
                    yield Selling(telegram, dispatcher, bot, fulfillment)
                    with suppress(RuntimeError):  # the test has stopped it
                        await dispatcher.stop_polling()
            finally:
                if started.is_set() and not polling.done():
                    polling.cancel()
                    await asyncio.gather(polling, return_exceptions=True)
            await polling

    return sell
