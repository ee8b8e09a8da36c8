"""A web shop with Stripe: Checkout takes the money, and your Telegram bot sends the link.

To try the example with a fake service, run `tgmembership fake --port 8000`, paste the three lines that it prints into
another terminal, and run there

    STRIPE_API_KEY=sk_test_... STRIPE_WEBHOOK_SECRET=whsec_... STRIPE_PRICES=1:price_...,2:price_... \
    TELEGRAM_BOT_TOKEN=... TELEGRAM_OWNER_IDS=... python examples/stripe_shop.py

`GET /buy/1?user=42` redirects the user with the Telegram id 42 to Stripe, to pay for the plan 1. Stripe's webhook calls
`/stripe`, and gets its 200 when the payment is in the ledger; the rest happens from the ledger, also after a crash.
"""

import os
import sys
from typing import TYPE_CHECKING

import stripe
import uvicorn
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse
from pydantic import PositiveInt

from tgmembership_async import Session
from tgmembership_async.ext.aiogram import ask_owner, deliver_link
from tgmembership_async.ext.fastapi import lifespan, receiver_router
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Granter, SqliteLedger
from tgmembership_async.payments import PaymentReceiver
from tgmembership_async.payments.stripe import StripeAdapter

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams


def required(name: str) -> str:
    """Return an environment variable, or exit with its name."""
    return os.getenv(name) or sys.exit(f"set {name}")


SHOP = os.environ.get("SHOP_URL", "http://127.0.0.1:8080")
PRICES = dict(pair.split(":") for pair in required("STRIPE_PRICES").split(","))  # the Stripe price of each plan
api_key = required("STRIPE_API_KEY")
checkout = stripe.StripeClient(
    api_key, base_addresses={"api": os.environ.get("STRIPE_API_URL", stripe.DEFAULT_API_BASE)}
)

telegram = TelegramAPIServer.from_base(os.environ.get("TELEGRAM_API_URL", "https://api.telegram.org"))
bot = Bot(required("TELEGRAM_BOT_TOKEN"), session=AiohttpSession(api=telegram))
ask = ask_owner(bot, [int(owner_id) for owner_id in required("TELEGRAM_OWNER_IDS").split(",")])

session = Session.from_env()
granter = Granter(session, SqliteLedger(os.environ.get("GRANTS_DB", "grants.db")))
fulfillment = Fulfillment(granter, deliver=deliver_link(bot), attention=ask)
adapter = StripeAdapter(required("STRIPE_WEBHOOK_SECRET"), live=api_key.startswith(("sk_live_", "rk_live_")))
receiver = PaymentReceiver(adapter, fulfillment, attention=ask)
app = FastAPI(title="Shop", lifespan=lifespan(session, fulfillment=fulfillment))
app.include_router(receiver_router(receiver, "/stripe"))


@app.get("/buy/{plan_id}")
def buy(plan_id: PositiveInt, user: PositiveInt) -> RedirectResponse:
    """Redirect to Stripe Checkout. The metadata says what the payment buys, and for whom."""
    if str(plan_id) not in PRICES:
        raise HTTPException(404, "no such plan")
    metadata = {"plan_id": str(plan_id), "member_id": str(user)}
    params: SessionCreateParams = {
        "mode": "payment",  # "subscription": "subscription_data": {"metadata": metadata} instead of payment_intent_data
        "line_items": [{"price": PRICES[str(plan_id)], "quantity": 1}],
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},  # a refund shows it
        "success_url": f"{SHOP}/thanks",
    }
    url = checkout.v1.checkout.sessions.create(params).url
    if url is None:
        raise HTTPException(502, "Stripe has no page for it")
    return RedirectResponse(url, 303)


@app.get("/thanks")
def thanks() -> str:
    """Say where the link arrives."""
    return "Thank you! The link to your access arrives in Telegram."


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
