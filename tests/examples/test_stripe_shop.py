"""`examples/stripe_shop.py` as a child process: from Checkout to the link in Telegram, with a kill in between."""

import asyncio
import os
import runpy
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest
from aiohttp import web
from fake_telegram import TOKEN, FakeTelegram
from forked import SHOPS, Forked
from no_tls import NO_TLS
from ports import free_port
from stripe_events import charge, event, invoice, session, signed

from tgmembership_async.grants import GrantStatus, SqliteLedger
from tgmembership_async.testing import FakeService, serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "stripe_shop.py"
OWNER, USER = 4242, 777
CHECKOUT = "https://checkout.stripe.com/c/pay/cs_1"


class FakeStripe:
    """Stripe's API on loopback: it creates Checkout Sessions, and remembers what was asked for."""

    async def __aenter__(self) -> Self:
        self.asked: list[dict[str, str]] = []
        application = web.Application()
        application.router.add_post("/v1/checkout/sessions", self._create)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        self.asked.append({name: str(value) for name, value in (await request.post()).items()})
        return web.json_response({"id": "cs_1", "object": "checkout.session", "url": CHECKOUT})


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_payment_on_stripe_ends_as_a_link_in_telegram_and_what_is_odd_as_a_question(tmp_path: Path) -> None:
    service, port = FakeService(), free_port()
    async with FakeTelegram() as telegram, FakeStripe() as stripe:
        with serve(service) as server:

            @asynccontextmanager
            async def started() -> AsyncIterator[tuple[Forked, httpx.AsyncClient]]:
                environment = {
                    **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
                    **server.env(),
                    "PYTHONPATH": str(EXAMPLE.parents[1]),
                    "STRIPE_API_KEY": "sk_live_of_this_shop",
                    "STRIPE_API_URL": stripe.url,
                    "STRIPE_WEBHOOK_SECRET": "whsec_test_of_this_shop",
                    "STRIPE_PRICES": "1:price_1,4:price_4",
                    "TELEGRAM_BOT_TOKEN": TOKEN,
                    "TELEGRAM_API_URL": telegram.url,
                    "TELEGRAM_OWNER_IDS": str(OWNER),
                    "GRANTS_DB": str(tmp_path / "grants.db"),
                    "PORT": str(port),
                }
                shop = await asyncio.to_thread(Forked, [sys.executable, EXAMPLE], forks=SHOPS, env=environment)
                url = f"http://127.0.0.1:{port}"
                try:
                    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS, timeout=60) as client:
                        await answers(client)
                        yield shop, client
                finally:
                    shop.kill()
                    await asyncio.to_thread(shop.wait, 60)

            async with started() as (_, client):
                bought = await client.get("/buy/4", params={"user": USER})
                assert (bought.status_code, bought.headers["location"]) == (303, CHECKOUT)
                assert (await client.get("/buy/3", params={"user": USER})).status_code == 404
                [asked] = stripe.asked
                assert asked["line_items[0][price]"] == "price_4"
                metadata = {key: asked[f"metadata[{key}]"] for key in ("plan_id", "member_id")}
                assert metadata == {"plan_id": "4", "member_id": "777"}
                paid = event("checkout.session.completed", session(metadata=metadata))
                telegram.paused.add("sendMessage")
                assert await post(client, paid) == 200
                await telegram.until(telegram.said)  # the link is on its way, and the process dies

            telegram.resume()
            async with started() as (shop, client):
                assert await post(client, paid) == 200
                assert (await client.post("/stripe", content=paid)).status_code == 400
                await becomes(tmp_path, "stripe:pi_1", GrantStatus.DELIVERED)
                for odd in (
                    event("charge.refunded", charge()),
                    event("invoice.paid", invoice(subscription="sub_1")),
                    event("checkout.session.completed", session(metadata=metadata), livemode=False),
                ):
                    assert await post(client, odd) == 200
                shop.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(shop.wait, 60) in (0, -signal.SIGTERM)

    [token] = service.tokens
    to_user = [said["reply_markup"]["inline_keyboard"] for said in telegram.said() if said["chat_id"] == USER]
    assert {row[0]["url"] for [row] in to_user} == {token.link}
    questions = [said["text"] for said in telegram.said() if said["chat_id"] == OWNER]
    for question, why in zip(questions, ("stripe:pi_1", "no valid plan_id", "of the test mode"), strict=True):
        assert why in question


@pytest.mark.parametrize("missing", ["STRIPE_PRICES", "STRIPE_WEBHOOK_SECRET"])
def test_a_missing_variable_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "STRIPE_PRICES": "1:price_1",
        "STRIPE_API_KEY": "sk_test_1",
        "STRIPE_WEBHOOK_SECRET": "whsec_1",
        "TELEGRAM_BOT_TOKEN": TOKEN,
        "TELEGRAM_OWNER_IDS": "1",
        "TGMEMBERSHIP_BOT_ID": "1",
        "TGMEMBERSHIP_API_KEY": "k" * 40,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, "" if name == missing else value)
    with pytest.raises(SystemExit, match=f"^set {missing}$"):
        runpy.run_path(str(EXAMPLE))


async def post(client: httpx.AsyncClient, body: bytes) -> int:
    return (await client.post("/stripe", content=body, headers=signed(body))).status_code


async def answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(180):
        while True:
            try:
                await client.get("/thanks")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def becomes(folder: Path, ref: str, wanted: GrantStatus) -> None:
    """Look into the ledger, beside the shop, until the payment has this state."""
    async with asyncio.timeout(180), SqliteLedger(folder / "grants.db", owner=False) as ledger:
        while (grant := await ledger.get(ref)) is None or grant.status is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
