"""A web shop: it grants access after a call of the payment provider, and shows the link on a status page.

To try the example, run `tgmembership fake --port 8000`, paste the three lines that it prints into another terminal, and
run there

    PAYMENT_SECRET=... python examples/fastapi_shop.py

A payment is in the ledger before the provider gets its 200. All further steps happen from the ledger, so that a restart
after a crash continues them.
"""

import hashlib
import hmac
import logging
import os
from html import escape
from typing import Annotated, Final

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, PositiveInt, ValidationError

from tgmembership_async import Session, TGMembershipError
from tgmembership_async.ext.fastapi import FulfillmentDep, answer_error, lifespan
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Grant, Granter, GrantStatus, SqliteLedger

ON_ITS_WAY: Final = "Your payment has arrived, and your access is on its way."
LOOKING: Final = "Your payment has arrived, and we are looking into your access."
PAGES: Final = {
    GrantStatus.PLANNED: ON_ITS_WAY,
    GrantStatus.SENDING: ON_ITS_WAY,
    GrantStatus.UNKNOWN: LOOKING,
    GrantStatus.REFUSED: LOOKING,
    GrantStatus.ABANDONED: "Your payment was refunded.",
}

log = logging.getLogger("shop")


class Payment(BaseModel):
    """A payment as the provider sends it. `id` is the provider's, is the same in repeats, and cannot be guessed."""

    id: str
    plan_id: PositiveInt
    user_id: PositiveInt


async def deliver(grant: Grant) -> None:
    """Deliver a link: the order's page shows it from now on. A shop that sends e-mail does that here."""
    log.info("%s: the link is on the page of the order", grant.ref)


async def ask_owner(grant: Grant) -> None:
    """Notify the owner of a grant that only a person can decide."""
    log.error("decide with `tgmembership grants`: %s is %s: %s", grant.ref, grant.status, grant.error)


def make_app(payment_secret: str, grants_db: str) -> FastAPI:
    """Return the application, with its own Session and ledger."""
    session, ledger = Session.from_env(), SqliteLedger(grants_db)
    fulfillment = Fulfillment(Granter(session, ledger), deliver=deliver, attention=ask_owner)
    app = FastAPI(title="Shop", lifespan=lifespan(session, fulfillment=fulfillment))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.post("/payments")
    async def paid(
        request: Request, fulfillment: FulfillmentDep, x_signature: Annotated[str, Header()]
    ) -> dict[str, str]:
        """Record a payment, and answer 200; access is granted in the background."""
        body = await request.body()
        expected = hmac.new(payment_secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), x_signature.encode()):
            raise HTTPException(401, "not authentic")
        try:
            payment = Payment.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(422, error.errors(include_input=False, include_url=False)) from None
        taken = await fulfillment.take(payment.id, plan_id=payment.plan_id, member_id=payment.user_id)
        return {"status": taken.status}

    @app.get("/orders/{ref}")
    async def order(ref: str) -> HTMLResponse:
        """Show the status of an order to the customer, with the link if there is one."""
        found = await ledger.get(ref)
        if found is None:
            raise HTTPException(404, "no such order")
        return HTMLResponse(f"<!doctype html><title>Your order</title><p>{page(found)}</p>")

    return app


def page(grant: Grant) -> str:
    """Return the text for a grant, as HTML."""
    link = grant.token and grant.token.link
    if grant.status in PAGES or not link:
        return PAGES.get(grant.status, "You have access now.")
    return f'Thank you! <a href="{escape(link)}">Open the chat</a>'


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    app = make_app(os.environ["PAYMENT_SECRET"], os.environ.get("GRANTS_DB", "grants.db"))
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
