"""`ext.aiogram` under the real Dispatcher and Bot, which talk to a fake Telegram over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from fake_telegram import TOKEN, FakeTelegram

from tgmembership_async import Session, UsageError
from tgmembership_async.access import Access
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Grant, Granter, MemoryLedger
from tgmembership_async.testing import FakeService, FakeTransport, Fault
from tgmembership_async.webhooks import Receiver, Verifier, sign

if TYPE_CHECKING:
    from aiogram import Bot, Dispatcher
    from aiogram.types import Message

Setup = Callable[..., None]


@pytest.fixture(scope="module")
def aiogram() -> Any:
    """Import it where it is used: it takes five seconds, and every worker collects these tests."""
    return import_module("aiogram")


@pytest.fixture(scope="module")
def setup() -> Setup:
    found: Setup = import_module("tgmembership_async.ext.aiogram").setup
    return found


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as telegram:
        yield telegram


@pytest.fixture
def bot(telegram: FakeTelegram, aiogram: Any) -> "Bot":
    session = import_module("aiogram.client.session.aiohttp").AiohttpSession
    server = import_module("aiogram.client.telegram").TelegramAPIServer
    made: Bot = aiogram.Bot(TOKEN, session=session(api=server.from_base(telegram.url)))
    return made


async def grant_what_was_paid(message: "Message", granter: Granter) -> None:
    payment, customer = message.successful_payment, message.from_user
    assert payment is not None
    assert customer is not None
    ref = f"telegram:{payment.telegram_payment_charge_id}"
    grant = await granter.grant(ref, plan_id=int(payment.invoice_payload), member_id=customer.id)
    assert grant.token is not None
    await message.answer(str(grant.token.link))


Polling = Callable[["Dispatcher", Callable[[], Awaitable[None]]], Awaitable[None]]


@pytest.fixture
def polling(bot: "Bot") -> Polling:
    """Poll while the scenario runs, then stop as the program would."""

    async def polling(dispatcher: "Dispatcher", scenario: Callable[[], Awaitable[None]]) -> None:
        started = asyncio.Event()
        dispatcher.startup.register(started.set)
        running = asyncio.create_task(
            dispatcher.start_polling(bot, handle_signals=False, handle_as_tasks=False, polling_timeout=1)
        )
        async with asyncio.timeout(15):
            await asyncio.wait({running, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await scenario()
                await dispatcher.stop_polling()
            await running

    return polling


async def test_a_payment_that_telegram_repeats_is_granted_once(
    aiogram: Any,
    setup: Setup,
    telegram: FakeTelegram,
    polling: Polling,
    service: FakeService,
    session: Session,
    granter: Granter,
) -> None:
    dispatcher = aiogram.Dispatcher()
    setup(dispatcher, session, granter)
    dispatcher.message.register(grant_what_was_paid, aiogram.F.successful_payment)

    async def scenario() -> None:
        telegram.pay("4", charge="stars-7")
        telegram.pay("4", charge="stars-7")
        telegram.pay("4", charge="stars-8")
        await telegram.until(lambda: len(telegram.said()) == 3)

    await polling(dispatcher, scenario)

    texts = [said["text"] for said in telegram.said()]
    assert texts[0] == texts[1] != texts[2]
    assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(4, 777), (4, 777)]


async def test_the_session_reaches_handlers_and_hooks_by_name(
    aiogram: Any, setup: Setup, telegram: FakeTelegram, polling: Polling, session: Session
) -> None:
    dispatcher, seen = aiogram.Dispatcher(), dict[str, Any]()
    router = aiogram.Router()
    dispatcher.include_router(router)

    async def begin(tgm: Session) -> None:
        seen["begin"] = tgm.is_open

    dispatcher.startup.register(begin)

    setup(dispatcher, session)  # after the hook, and yet it finds the Session open

    async def plans(message: "Message", tgm: Session) -> None:
        await message.answer(", ".join(plan.name for plan in await tgm.get_plans()))

    router.message.register(plans, aiogram.F.text == "/plans")

    async def end(tgm: Session) -> None:
        seen["end"] = tgm.is_open

    router.shutdown.register(end)

    async def scenario() -> None:
        telegram.write("/plans")
        await telegram.until(telegram.said)

    await polling(dispatcher, scenario)

    assert telegram.said()[0]["text"].startswith("My first plan, A year of everything")
    assert seen == {"begin": True, "end": True}
    assert not session.is_open


async def test_what_you_opened_yourself_stays_open(
    aiogram: Any, setup: Setup, polling: Polling, session: Session, granter: Granter
) -> None:
    dispatcher = aiogram.Dispatcher()
    setup(dispatcher, session, granter)

    async def scenario() -> None:
        assert granter.is_open

    async with granter:
        await polling(dispatcher, scenario)
        assert granter.is_open
        assert session.is_open


async def test_a_session_apart_from_the_granters_is_opened_too(
    aiogram: Any, setup: Setup, polling: Polling, service: FakeService, granter: Granter
) -> None:
    dispatcher, apart = aiogram.Dispatcher(), Session(**service.session_options(), transport=FakeTransport(service))
    setup(dispatcher, apart, granter)

    async def scenario() -> None:
        assert apart.is_open
        assert granter.is_open

    await polling(dispatcher, scenario)
    assert (apart.is_open, granter.is_open) == (False, False)


async def test_nothing_stays_open_when_opening_fails(
    aiogram: Any, setup: Setup, polling: Polling, session: Session, granter: Granter
) -> None:
    dispatcher = aiogram.Dispatcher()
    used_up = Session(1, "key")
    await used_up.open()
    await used_up.aclose()
    setup(dispatcher, used_up, granter)

    async def scenario() -> None:
        raise AssertionError

    with pytest.raises(UsageError, match="make a new one"):
        await polling(dispatcher, scenario)
    assert (granter.is_open, session.is_open) == (False, False)


async def test_webhooks_of_telegram_and_of_the_service_share_one_application(
    aiogram: Any,
    setup: Setup,
    telegram: FakeTelegram,
    bot: "Bot",
    service: FakeService,
    session: Session,
    granter: Granter,
) -> None:
    dispatcher, receiver, events = aiogram.Dispatcher(), Receiver(Verifier("s" * 20)), list[str]()
    setup(dispatcher, session, granter)
    dispatcher.message.register(grant_what_was_paid, aiogram.F.successful_payment)

    @receiver.on("order_completed")
    async def note(event: Any) -> None:
        events.append(event.name)

    application = web.Application()
    served = import_module("aiogram.webhook.aiohttp_server")
    served.SimpleRequestHandler(dispatcher, bot, handle_in_background=False).register(application, "/telegram")
    application.router.add_route("*", "/tgmembership", receiver.aiohttp_handler)
    served.setup_application(application, dispatcher, bot=bot)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    assert session.is_open
    telegram.pay("4")
    body = b'{"event": "order_completed", "debug_id": "1", "data": {}}'
    signature = sign("s" * 20, body, nonce="5f3a", timestamp=time.time())
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        async with client.post("/telegram", json=telegram.updates[0]) as answer:
            assert answer.status == 200
        async with client.post("/tgmembership", data=body, headers=signature) as answer:
            assert answer.status == 200
        async with client.post("/tgmembership", data=body) as answer:
            assert answer.status == 401
    await runner.cleanup()

    assert events == ["order_completed"]
    assert len(service.audit) == len(telegram.said()) == 1
    assert not session.is_open


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (lambda dispatcher, session, _: (session, dispatcher), "Dispatcher first"),
        (lambda dispatcher, _, granter: (dispatcher, granter), "takes a Session or a Project"),
        (lambda dispatcher, session, _: (dispatcher, session, session), "a Granter"),
    ],
)
def test_wrong_arguments_are_told(
    aiogram: Any, setup: Setup, arguments: Any, why: str, session: Session, granter: Granter
) -> None:
    with pytest.raises(UsageError, match=why):
        setup(*arguments(aiogram.Dispatcher(), session, granter))


def test_names_that_are_taken_are_told(aiogram: Any, setup: Setup, session: Session) -> None:
    with pytest.raises(UsageError, match="under granter already"):
        setup(aiogram.Dispatcher(granter="mine"), session)
    dispatcher = aiogram.Dispatcher()
    setup(dispatcher, session)
    with pytest.raises(UsageError, match="call setup once"):
        setup(dispatcher, session)


async def test_a_payment_that_is_taken_ends_as_a_link(
    aiogram: Any,
    setup: Setup,
    telegram: FakeTelegram,
    polling: Polling,
    bot: "Bot",
    service: FakeService,
    session: Session,
    granter: Granter,
) -> None:
    async def deliver(grant: Grant) -> None:
        assert grant.token is not None
        await bot.send_message(int(grant.note), str(grant.token.link))

    async def ask(grant: Grant) -> None:
        raise AssertionError(grant)

    async def paid(message: "Message", fulfillment: Fulfillment) -> None:
        payment = message.successful_payment
        assert payment is not None
        ref = f"telegram:{payment.telegram_payment_charge_id}"
        await fulfillment.take(ref, plan_id=int(payment.invoice_payload), note=str(message.chat.id))

    dispatcher, fulfillment = aiogram.Dispatcher(), Fulfillment(granter, deliver=deliver, attention=ask)
    setup(dispatcher, session, fulfillment=fulfillment)
    dispatcher.message.register(paid, aiogram.F.successful_payment)

    async def scenario() -> None:
        assert fulfillment.is_open
        telegram.pay("4", charge="stars-7")
        telegram.pay("4", charge="stars-7")
        await telegram.until(telegram.said)

    await polling(dispatcher, scenario)

    assert [said["text"] for said in telegram.said()] == [token.link for token in service.tokens]
    assert (session.is_open, granter.is_open, fulfillment.is_open) == (False, False, False)


async def test_a_handler_is_only_for_who_has_access(
    aiogram: Any,
    setup: Setup,
    telegram: FakeTelegram,
    polling: Polling,
    service: FakeService,
    session: Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    has_access = import_module("tgmembership_async.ext.aiogram").HasAccess
    service.populate()
    member = service.subscribers[0]
    dispatcher = aiogram.Dispatcher()
    setup(dispatcher, session)

    async def lesson(message: "Message", has_access: Access) -> None:
        await message.answer(f"plans {sorted(has_access.plans)}")

    async def nothing(message: "Message") -> None:
        await message.answer("buy it first")

    dispatcher.message.register(lesson, has_access(member.plan_id))
    dispatcher.message.register(nothing)

    async def scenario() -> None:
        telegram.write("/lesson", user_id=member.user_id)
        telegram.write("/lesson", user_id=1)
        await telegram.until(lambda: len(telegram.said()) == 2)
        service.inject(Fault("error", status=400))
        telegram.write("/lesson", user_id=2)
        await telegram.until(lambda: len(telegram.said()) == 3)

    await polling(dispatcher, scenario)

    assert [said["text"] for said in telegram.said()] == [f"plans [{member.plan_id}]", "buy it first", "buy it first"]
    assert "user 2 has access is not known" in caplog.text


async def test_as_a_middleware_it_guards_a_whole_router(
    aiogram: Any, setup: Setup, polling: Polling, telegram: FakeTelegram, service: FakeService, session: Session
) -> None:
    has_access = import_module("tgmembership_async.ext.aiogram").HasAccess
    service.populate()
    member = service.subscribers[0]
    dispatcher, lessons, outside = aiogram.Dispatcher(), aiogram.Router(), aiogram.Router()
    setup(dispatcher, session)

    async def lesson(message: "Message", has_access: Access) -> None:
        await message.answer(f"plans {sorted(has_access.plans)}")

    async def nothing(message: "Message") -> None:
        await message.answer("buy it first")

    lessons.message.register(lesson)
    lessons.message.middleware(has_access(member.plan_id))
    outside.message.register(nothing)
    dispatcher.include_routers(lessons, outside)

    async def scenario() -> None:
        telegram.write("/lesson", user_id=member.user_id)
        telegram.write("/lesson", user_id=1)
        await telegram.until(lambda: len(telegram.said()) == 2)

    await polling(dispatcher, scenario)

    assert [said["text"] for said in telegram.said()] == [f"plans [{member.plan_id}]", "buy it first"]


def test_a_fulfillment_of_another_granter_is_told(
    aiogram: Any, setup: Setup, session: Session, granter: Granter
) -> None:
    async def nothing(_: Grant) -> None: ...

    fulfillment = Fulfillment(granter, deliver=nothing, attention=nothing)
    with pytest.raises(UsageError, match="another Granter"):
        setup(aiogram.Dispatcher(), session, Granter(session, MemoryLedger()), fulfillment=fulfillment)
    with pytest.raises(UsageError, match="must be a Fulfillment"):
        setup(aiogram.Dispatcher(), session, granter, fulfillment=granter)
