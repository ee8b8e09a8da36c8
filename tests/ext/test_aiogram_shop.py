"""`shop_router` under the real Dispatcher and Bot, which talk to a fake Telegram over HTTP."""

import asyncio
import sqlite3
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from fake_telegram import CUSTOMER, INVOICE_LINK, TOKEN, FakeTelegram
from selling_bot import OWNER, Sell

from tgmembership_async import Session, StorageError, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Grant, Granter, GrantStatus, MemoryLedger, SqliteLedger
from tgmembership_async.project import Project
from tgmembership_async.testing import FakePlan, FakeProject, FakeService, FakeTransport, Fault


async def test_from_buy_to_the_link(telegram: FakeTelegram, service: FakeService, sell: Sell) -> None:
    async with sell() as selling:
        for command in ("/start", "/buy"):
            await selling.handled(telegram.write(command))
        invoices = telegram.said("sendInvoice")
        assert len(invoices) == 2, "a single plan gets its invoice at once"
        assert (invoices[0]["payload"], invoices[0]["currency"]) == (4, "XTR")
        assert invoices[0]["prices"] == [{"label": "Weekend pass", "amount": 250}]
        await selling.handled(telegram.check_out("4"))
        assert telegram.said("answerPreCheckoutQuery")[-1]["ok"] is True
        for _ in range(2):
            telegram.pay("4", charge="c1")
        telegram.pay("4", charge="c2", is_recurring=True, subscription_expiration_date=1_800_000_000)
        await telegram.until(lambda: len(telegram.said()) == 2)
        assert sorted(selling.buttons(n)["Open"] for n in range(2)) == sorted(str(t.link) for t in service.tokens)
        await selling.becomes("telegram:c2", GrantStatus.DELIVERED)
    assert [(grant.plan_id, grant.member_id) for grant in service.audit] == [(4, CUSTOMER["id"])] * 2


async def test_plans_of_several_currencies_are_shown_as_buttons(telegram: FakeTelegram, sell: Sell) -> None:
    async with sell(provider_tokens={"EUR": "provider:token"}, plan_ids=[1, 3, 4]) as selling:
        await selling.handled(telegram.write("/buy"))
        buttons = selling.buttons()
        assert list(buttons) == ["My first plan, 1 month: 9.99 EUR", "Weekend pass, 3 days: 250 ⭐"]
        await selling.handled(telegram.press(buttons["My first plan, 1 month: 9.99 EUR"]))
        (invoice,) = telegram.said("sendInvoice")
        assert (invoice["provider_token"], invoice["currency"]) == ("provider:token", "EUR")
        assert invoice["prices"] == [{"label": "My first plan", "amount": 999}]
        await selling.handled(telegram.check_out("1", amount=999, currency="EUR"))
        assert telegram.said("answerPreCheckoutQuery")[-1]["ok"] is True
        await selling.handled(telegram.press(buttons["Weekend pass, 3 days: 250 ⭐"].replace("4", "2")))
        assert "changed" in telegram.said("answerCallbackQuery")[-1]["text"]


async def test_a_recurring_plan_of_a_month_in_stars_is_sold_as_a_subscription(
    telegram: FakeTelegram, service: FakeService, sell: Sell
) -> None:
    for plan in (
        FakePlan(5, "Monthly", "1 month", "100", "XTR", recurring=True),
        FakePlan(6, "Yearly", "1 year", "900", "XTR", recurring=True),
        FakePlan(7, "Too dear", "30 days", "10001", "XTR", recurring=True),
    ):
        service._plans[plan.plan_id] = plan
    async with sell() as selling:
        await selling.handled(telegram.write("/buy"))
        choices = selling.buttons()
        for name in ("Monthly, 1 month: 100 ⭐", "Yearly, 1 year: 900 ⭐", "Too dear, 30 days: 10001 ⭐"):
            await selling.handled(telegram.press(choices[name]))
        [link] = telegram.said("createInvoiceLink")
        assert (link["payload"], link["currency"], link["subscription_period"]) == (5, "XTR", 2_592_000)
        assert selling.buttons()["Subscribe"] == INVOICE_LINK
        assert [invoice["payload"] for invoice in telegram.said("sendInvoice")] == [6, 7], "Telegram renews monthly"
        await selling.handled(telegram.check_out("5", amount=100))
        assert telegram.said("answerPreCheckoutQuery")[-1]["ok"] is True
        for charge in ("first", "second"):
            telegram.pay("5", charge=charge, amount=100, is_recurring=True, is_first_recurring=charge == "first")
            await selling.becomes(f"telegram:{charge}", GrantStatus.DELIVERED)
    assert [grant.plan_id for grant in service.audit] == [5, 5]


async def test_what_the_customer_hears_is_in_her_language(ours: Any, telegram: FakeTelegram, sell: Sell) -> None:
    texts = {"de": ours.Texts(choose="Was darf es sein?", plan="{name} für {price}", nothing="Nichts da.")}
    async with sell(texts=texts, plan_ids=[]) as selling:
        for language in ("de", "de-at", "fr", None):
            await selling.handled(telegram.write("/buy", language=language))
    english = ours.Texts().nothing
    assert [said["text"] for said in telegram.said()] == ["Nichts da.", "Nichts da.", english, english]


async def test_nobody_pays_for_what_is_gone_or_costs_something_else_now(
    telegram: FakeTelegram, service: FakeService, sell: Sell
) -> None:
    async with sell() as selling:
        for payload, amount in (("4", 200), ("3", 250), ("99", 250)):
            await selling.handled(telegram.check_out(payload, amount=amount))
        service.inject(Fault("error", method="getPlans", status=400, count=1))
        await selling.handled(telegram.check_out("4"))
        await selling.handled(telegram.check_out("4"))
        service.inject(Fault("error", method="getPlans", status=400, count=1))
        await selling.handled(telegram.write("/buy"))
    answers = telegram.said("answerPreCheckoutQuery")
    assert [answer["ok"] for answer in answers] == [False, False, False, False, True]
    assert "changed" in answers[0]["error_message"]
    assert "closed" in answers[3]["error_message"]
    assert "closed" in telegram.said()[-1]["text"]


class Locked:
    """A ledger's file that another process keeps locked, for the time of the block."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=60)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    while text not in caplog.text:  # noqa: ASYNC110 - a log sets no event
        await asyncio.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the ledger, and who writes to it, lose patience in milliseconds instead of half a minute."""
    monkeypatch.setattr("tgmembership_async.storage.sqlite.schema._OWNER_WAITS", 0.02)
    for name, seconds in {"_FIRST_PAUSE": 0.05, "_LONGEST_PAUSE": 0.05, "_WEBHOOK_WAITS": 0.5}.items():
        monkeypatch.setattr(f"tgmembership_async.ext.aiogram.recording.{name}", seconds)
    monkeypatch.setattr("tgmembership_async.ext.aiogram.shop._ANSWERED_WITHIN", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_while_the_ledger_cannot_write_nobody_pays_and_no_payment_is_confirmed(
    telegram: FakeTelegram, service: FakeService, sell: Sell, quick_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = quick_path / "grants.db"
    async with sell(SqliteLedger(path), deadline=0.1) as selling:
        await selling.handled(telegram.write("/buy"))
        with Locked(path):
            await selling.handled(telegram.check_out("4"))
            assert telegram.said("answerPreCheckoutQuery")[-1]["ok"] is False
            paid = telegram.pay("4")
            await until_logged(caplog, "cannot be recorded yet, and is tried again")
            assert not telegram.confirmed(paid)
        await selling.handled(paid)
        await telegram.until(telegram.said)
        await selling.becomes("telegram:stars-1", GrantStatus.DELIVERED)
        await selling.handled(telegram.check_out("4"))
        assert telegram.said("answerPreCheckoutQuery")[-1]["ok"] is True
    assert len(service.audit) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_bot_that_is_stopped_meanwhile_has_not_confirmed_the_payment(
    telegram: FakeTelegram, sell: Sell, quick_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = quick_path / "grants.db"
    async with sell(SqliteLedger(path), deadline=0.1) as selling:
        await selling.handled(telegram.write("/buy"))
        with Locked(path):
            paid = telegram.pay("4")
            await until_logged(caplog, "cannot be recorded yet, and is tried again")
            await selling.dispatcher.stop_polling()
            assert not telegram.confirmed(paid)


@pytest.mark.usefixtures("impatient")
async def test_a_webhook_is_answered_with_an_error_while_the_ledger_cannot_write(
    ours: Any, telegram: FakeTelegram, service: FakeService
) -> None:
    class Failing(MemoryLedger):
        fails = True

        async def plan(self, request: Any) -> Any:
            if self.fails:
                msg = "the disk is full"
                raise StorageError(msg)
            return await super().plan(request)

    aiogram, served = import_module("aiogram"), import_module("aiogram.webhook.aiohttp_server")
    http = import_module("aiogram.client.session.aiohttp").AiohttpSession
    server = import_module("aiogram.client.telegram").TelegramAPIServer
    bot = aiogram.Bot(TOKEN, session=http(api=server.from_base(telegram.url)))
    ledger = Failing()
    session = Session(**service.session_options(), transport=FakeTransport(service))
    fulfillment = Fulfillment(
        Granter(session, ledger), deliver=ours.deliver_link(bot), attention=ours.ask_owner(bot, [OWNER]), deadline=0.1
    )
    dispatcher = aiogram.Dispatcher()
    ours.setup(dispatcher, session, fulfillment=fulfillment)
    dispatcher.include_router(ours.shop_router())
    failures: list[Any] = []
    dispatcher.errors.register(failures.append)
    application = web.Application()
    served.SimpleRequestHandler(dispatcher, bot, handle_in_background=False).register(application, "/telegram")
    served.setup_application(application, dispatcher, bot=bot)
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        telegram.pay("4")
        client = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        for expected in (500, 200):
            async with client.post("/telegram", json=telegram.updates[0]) as answer:
                assert answer.status == expected
            ledger.fails = False
        await telegram.until(telegram.said)
    assert len(service.audit) == 1
    assert not failures, "an error handler would confirm the update"


@pytest.mark.usefixtures("impatient")
async def test_a_refund_that_no_owner_hears_of_stops_nobody(
    telegram: FakeTelegram, sell: Sell, caplog: pytest.LogCaptureFixture
) -> None:
    async with sell() as selling:
        telegram.pay("4", charge="late")
        await selling.becomes("telegram:late", GrantStatus.DELIVERED)
        telegram.refuse = lambda _, said: "Forbidden: bot was blocked" if said.get("chat_id") == OWNER else None
        await selling.handled(telegram.refund("4", charge="late"))
        telegram.pay("4", charge="other")
        await selling.becomes("telegram:other", GrantStatus.DELIVERED)
    assert "no owner can be notified" in caplog.text


async def test_a_refund_before_the_grant_is_not_granted_and_one_after_it_is_told(
    telegram: FakeTelegram, service: FakeService, sell: Sell
) -> None:
    async with sell() as selling:
        await selling.handled(telegram.refund("4", charge="early"))
        await selling.handled(telegram.pay("4", charge="early"))
        telegram.pay("4", charge="late")
        await selling.becomes("telegram:late", GrantStatus.DELIVERED)
        assert not selling.texts(OWNER)
        await selling.handled(telegram.refund("4", charge="late"))
        assert "refunded in Telegram, and is delivered" in selling.texts(OWNER)[0]
        await selling.becomes("telegram:early", GrantStatus.ABANDONED)
    assert len(service.audit) == 1


async def test_payments_of_others_are_left_to_their_handlers_and_told_to_the_owner_if_there_is_none(
    telegram: FakeTelegram, service: FakeService, sell: Sell, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []
    async with sell() as selling:
        aiogram = import_module("aiogram")
        later = aiogram.Router()
        later.message.register(lambda message: taken.append(message.message_id), aiogram.F.successful_payment)
        selling.dispatcher.include_router(later)
        await selling.handled(telegram.pay("donation", charge="other"))
        await selling.handled(telegram.refund("donation", charge="other"))
        await selling.handled(telegram.check_out("donation"))
        [question] = selling.texts(OWNER)
        assert "telegram:other: 250 XTR were paid by user 777, and the payload 'donation'" in question
        telegram.refuse = lambda method, _: "Forbidden: bot was blocked" if method == "sendMessage" else None
        await selling.handled(telegram.pay("donation", charge="unheard"))
    assert len(taken) == 2, "the routers after the owner's have it too"
    assert "left to other handlers: telegram:other" in caplog.text
    assert "no owner can be notified" in caplog.text
    assert not telegram.said("answerPreCheckoutQuery")
    assert not service.requests


async def test_a_payment_under_the_ref_of_another_is_told_to_the_owner(telegram: FakeTelegram, sell: Sell) -> None:
    async with sell() as selling:
        telegram.pay("4")
        await selling.becomes("telegram:stars-1", GrantStatus.DELIVERED)
        await selling.handled(telegram.pay("3"))
        assert "telegram:stars-1: user 777 paid for plan 3" in selling.texts(OWNER)[0]


async def test_a_link_that_telegram_takes_on_no_button_is_sent_as_text(
    telegram: FakeTelegram, service: FakeService, sell: Sell
) -> None:
    telegram.refuse = lambda _, arguments: "BUTTON_URL_INVALID" if arguments.get("reply_markup") else None
    async with sell() as selling:
        telegram.pay("4")
        await selling.becomes("telegram:stars-1", GrantStatus.DELIVERED)
    assert str(service.tokens[0].link) in telegram.said()[-1]["text"]


async def test_a_shop_without_a_session_does_not_start(ours: Any) -> None:
    async def ignore(_: Grant) -> None: ...

    dispatcher = import_module("aiogram").Dispatcher()
    project = Project(**FakeProject().session_options())
    granter = Granter(project, MemoryLedger())
    ours.setup(dispatcher, project, fulfillment=Fulfillment(granter, deliver=ignore, attention=ignore))
    dispatcher.include_router(ours.shop_router())
    assert dispatcher["project"] is project
    with pytest.raises(UsageError, match="has no Session to read plans with"):
        await dispatcher.emit_startup(dispatcher=dispatcher)
    assert project.is_open
    await dispatcher.emit_shutdown()
    assert not project.is_open


async def test_a_bot_without_a_fulfillment_does_not_start(ours: Any) -> None:
    aiogram = import_module("aiogram")
    for router in (ours.shop_router(), ours.owner_router([1])):
        dispatcher = aiogram.Dispatcher()
        ours.setup(dispatcher, Session(1, "k" * 20))
        dispatcher.include_router(router)
        with pytest.raises(UsageError, match="has no Fulfillment"):
            await dispatcher.emit_startup(dispatcher=dispatcher)
        await dispatcher.emit_shutdown()


def test_wrong_arguments_are_told(ours: Any) -> None:
    for wrong in ({"choose": ""}, {"thanks": "{link}"}, {"plan": "{name"}):
        with pytest.raises(UsageError, match=f"the text {next(iter(wrong))}"):
            ours.Texts(**wrong)
    for options in ({"provider_tokens": {"XTR": "x"}}, {"provider_tokens": {"euro": "x"}}, {"plan_ids": ["4"]}):
        with pytest.raises(UsageError, match=next(iter(options))):
            ours.shop_router(**options)
    with pytest.raises(UsageError, match="texts is a mapping"):
        ours.shop_router(texts={"de": "Hallo"})
    for owners in ([], [0], ["me"]):
        with pytest.raises(UsageError, match="owner_ids"):
            ours.owner_router(owners)
