"""Every fence of the recipes and of the ten-line programs runs, on the real framework where it is installed."""

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from canary import CANARY_KEY
from fake_telegram import TOKEN, FakeTelegram
from pages import ROOT, executed

from tgmembership_async import OutcomeUnknown, Session
from tgmembership_async.grants import Granter
from tgmembership_async.testing import FakeService, Fault, WebhookSender
from tgmembership_async.testing import serve as serve_fake
from tgmembership_async.webhooks import Receiver, Verifier

DOCS = ROOT / "docs"

Recipe = Callable[..., Any]


@pytest.fixture
def service() -> FakeService:
    return FakeService(api_key=CANARY_KEY)


@pytest.fixture
def sender() -> WebhookSender:
    return WebhookSender()


@pytest.fixture
def receiver(sender: WebhookSender) -> Receiver:
    return Receiver(Verifier(sender.secret))


def test_no_recipe_is_forgotten() -> None:
    titles = re.findall(r"^## (.*)$", (DOCS / "recipes.md").read_text(), re.MULTILINE)
    assert titles == ["python-telegram-bot", "aiohttp", "Litestar", "Django", "Sentry", "OpenTelemetry"]


async def test_python_telegram_bot(service: FakeService, granter: Granter) -> None:
    telegram_ext = pytest.importorskip("telegram.ext")
    from telegram import Update  # noqa: PLC0415 - perhaps not installed

    async with FakeTelegram() as telegram:
        builder = telegram_ext.ApplicationBuilder().token(TOKEN).base_url(f"{telegram.url}/bot")
        application = executed("recipes.md", "python-telegram-bot")["make_application"](builder, granter)
        telegram.pay("4")
        async with application:
            await application.post_init(application)
            for _ in range(2):
                await application.process_update(Update.de_json(telegram.updates[0], application.bot))
            await application.post_shutdown(application)

        assert len(service.audit) == len(telegram.said()) == 1
        assert service.tokens[0].link in telegram.said()[0]["text"]


async def test_aiohttp(service: FakeService, granter: Granter, receiver: Receiver, sender: WebhookSender) -> None:
    from aiohttp.test_utils import TestClient, TestServer  # noqa: PLC0415 - beside the recipe

    app = executed("recipes.md", "aiohttp")["make_app"](granter, receiver)
    async with TestClient(TestServer(app)) as client:
        async with client.post("/payments", json={"id": "pi_1", "plan_id": 1, "user_id": 42}) as answer:
            assert answer.status == 200
        assert await sender.post(str(client.make_url("/tgmembership"))) == 200
        assert (await granter.run_planned()).granted == 1
    assert len(service.audit) == 1
    assert not granter.is_open


async def test_litestar(
    service: FakeService,
    session: Session,
    granter: Granter,
    receiver: Receiver,
    sender: WebhookSender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("litestar")
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers.copy())  # it would leave its own for all tests

    app = executed("recipes.md", "Litestar")["make_litestar"](session, granter, receiver)
    headers, body = sender.signed()
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as shop:
        assert (await shop.get("/plans")).json()[0] == "My first plan"
        assert (await shop.post("/payments/pi_1?user_id=42")).text == "planned"
        assert (await shop.post("/tgmembership", content=body, headers=headers)).status_code == 200
        assert (await granter.run_planned()).granted == 1
    assert len(service.audit) == 1
    assert not granter.is_open


async def test_django(service: FakeService, granter: Granter, receiver: Receiver, sender: WebhookSender) -> None:
    django: Any = pytest.importorskip("django")
    conf, asgi = pytest.importorskip("django.conf"), pytest.importorskip("django.core.asgi")
    urls = pytest.importorskip("django.urls")
    namespace = executed("recipes.md", "Django")
    namespace["urlpatterns"] = [urls.path("payments/<ref>", namespace["paid"])]
    conf.settings.configure(ROOT_URLCONF="recipe", SECRET_KEY="x", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
    django.setup()
    app = namespace["WithGranter"](asgi.get_asgi_application(), granter, receiver)
    told, heard = asyncio.Queue[Any](), asyncio.Queue[Any]()
    living = asyncio.create_task(app({"type": "lifespan"}, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    headers, body = sender.signed()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as shop:
        assert (await shop.get("/payments/pi_1?user_id=42")).json() == {"status": "planned"}
        assert (await shop.post("/tgmembership", content=body, headers=headers)).status_code == 200
    assert (await granter.run_planned()).granted == 1
    await told.put({"type": "lifespan.shutdown"})
    await living
    assert len(service.audit) == 1
    assert not granter.is_open


async def test_sentry(service: FakeService) -> None:
    sentry_sdk: Any = pytest.importorskip("sentry_sdk")
    events: list[Any] = []
    watch = executed("recipes.md", "Sentry")["watch"]
    service.inject(Fault("reset", method="addMember", when="after"))

    class Kept(sentry_sdk.Transport):  # type: ignore[misc]  # perhaps not installed
        def capture_envelope(self, envelope: Any) -> None:
            events.append(envelope)

    sentry_sdk.init("http://key@localhost/1", transport=Kept(), default_integrations=False)
    try:
        with serve_fake(service) as server:
            async with Session(**server.session_options(), observer=watch) as tg:
                await tg.get_plans()
                with pytest.raises(OutcomeUnknown) as caught:
                    await tg.add_member(1, 42)
                sentry_sdk.capture_exception(caught.value)
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.init(default_integrations=False)  # with them it would stay in whatever they patch

    told = [item.payload.json for envelope in events for item in envelope.items if item.payload.json]
    assert "addMember may have been applied: decide" in [event.get("message") for event in told]
    assert any("OutcomeUnknown" in str(event.get("exception")) for event in told)
    assert CANARY_KEY not in repr(told)


async def test_open_telemetry(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_fake(service) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        async with executed("recipes.md", "OpenTelemetry")["make_session"](proxy=None) as tg:
            assert len(await tg.get_plans()) == 4


@pytest.fixture
def surroundings(service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give the environment that the ten-line programs expect."""
    with serve_fake(service) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.chdir(tmp_path)
        yield


@pytest.mark.usefixtures("surroundings")
async def test_a_bot_in_ten_lines(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeTelegram() as telegram:
        for name, value in {"BOT_TOKEN": TOKEN, "API_URL": telegram.url, "OWNER_IDS": "1"}.items():
            monkeypatch.setenv(f"TELEGRAM_{name}", value)
        bot = executed("bots_and_shops.md", "A bot in ten lines")
        polling = asyncio.create_task(
            bot["dispatcher"].start_polling(bot["bot"], handle_as_tasks=False, handle_signals=False)
        )
        payment = telegram.pay("4")
        await telegram.until(lambda: telegram.confirmed(payment) and telegram.said())
        await bot["dispatcher"].stop_polling()
        await polling

        assert bot["shop"].name == "tgmembership shop"
        assert telegram.said()[0]["reply_markup"]["inline_keyboard"][0][0]["url"] == service.tokens[0].link
    assert len(service.audit) == 1


@pytest.mark.usefixtures("surroundings")
async def test_a_shop_in_ten_lines(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    app = executed("bots_and_shops.md", "A shop in ten lines")["app"]
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://shop") as shop:
            payment = "/payments/pi_1?user_id=42&email=ann@example.com"
            assert (await shop.post(payment)).json() == "planned"
            async with asyncio.timeout(10):
                while (await shop.post(payment)).json() != "delivered":  # noqa: ASYNC110 - delivered in the background
                    await asyncio.sleep(0.01)
    assert len(service.audit) == 1
    assert service.tokens[0].link in capsys.readouterr().out
