"""A web shop: it grants access after a call of the payment provider, and shows the link on a status page.

To try the example, run `tgmembership fake --port 8000`, export the three lines it prints, and run

    PAYMENT_SECRET=... python examples/fastapi_shop.py

A payment is stored in the ledger before the provider gets its 200. All further steps read the ledger, so that a restart
after a crash continues them.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from html import escape
from typing import Annotated, Any, Final

import uvicorn
from fastapi import BackgroundTasks, FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, PositiveInt, ValidationError

from tgmembership_async import Session, TGMembershipError
from tgmembership_async.ext.fastapi import GranterDep, answer_error, lifespan
from tgmembership_async.grants import Grant, Granter, GrantStatus, SqliteLedger

PAUSE: Final = 60.0
PAGES: Final = {
    GrantStatus.PLANNED: "Your payment has arrived, and your access is on its way.",
    GrantStatus.SENDING: "Your payment has arrived, and your access is on its way.",
    GrantStatus.UNKNOWN: "Your payment has arrived, and we are looking into your access.",
    GrantStatus.REFUSED: "Your payment has arrived, and we are looking into your access.",
    GrantStatus.ABANDONED: "Your payment was refunded.",
}

log = logging.getLogger("shop")


class Payment(BaseModel):
    """A payment as the provider sends it. `id` is the provider's, is the same in repeats, and cannot be guessed."""

    id: str
    plan_id: PositiveInt
    user_id: PositiveInt


def make_app(payment_secret: str, grants_db: str) -> FastAPI:
    """Return the application, with its own Session and ledger."""
    session, ledger = Session.from_env(), SqliteLedger(grants_db)
    granter = Granter(session, ledger)

    @contextlib.asynccontextmanager
    async def sweeping(_: Any) -> AsyncGenerator[Mapping[str, Any]]:
        sweeper = asyncio.create_task(sweep(granter))
        yield {}
        sweeper.cancel()
        await asyncio.wait([sweeper])

    app = FastAPI(title="Shop", lifespan=lifespan(session, granter, own=sweeping))
    app.add_exception_handler(TGMembershipError, answer_error)

    @app.post("/payments")
    async def paid(
        request: Request, granter: GranterDep, background: BackgroundTasks, x_signature: Annotated[str, Header()]
    ) -> dict[str, str]:
        """Store a payment in the ledger, answer 200, and grant access afterwards."""
        body = await request.body()
        expected = hmac.new(payment_secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), x_signature.encode()):
            raise HTTPException(401, "not authentic")
        try:
            payment = Payment.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(422, error.errors(include_input=False, include_url=False)) from None
        planned = await granter.plan(payment.id, plan_id=payment.plan_id, member_id=payment.user_id)
        background.add_task(grant, granter, planned)
        return {"status": planned.status}

    @app.get("/orders/{ref}")
    async def order(ref: str, granter: GranterDep) -> HTMLResponse:
        """Show the status of an order to the customer, with the link if there is one."""
        found = await ledger.get(ref)
        if found is None:
            raise HTTPException(404, "no such order")
        if found.status not in PAGES:
            await granter.mark_delivered(ref)
        return HTMLResponse(f"<!doctype html><title>Your order</title><p>{page(found)}</p>")

    return app


def page(grant: Grant) -> str:
    """Return the text for a grant, as HTML."""
    link = grant.token and grant.token.link
    if grant.status in PAGES or not link:
        return PAGES.get(grant.status, "You have access now.")
    return f'Thank you! <a href="{escape(link)}">Open the chat</a>'


async def grant(granter: Granter, planned: Grant) -> None:
    """Carry out a planned grant. A failure is logged; the ledger has its outcome."""
    try:
        await granter.grant(planned.ref, plan_id=planned.plan_id, member_id=planned.member_id)
    except TGMembershipError as error:
        log.warning("%s: %s", planned.ref, error)


async def sweep(granter: Granter) -> None:
    """Send planned grants and reconcile unknown ones, at the start and every minute."""
    while True:
        try:
            summary = await granter.run_planned()
            log.info("%d granted, %d still planned", summary.granted, summary.planned)
            for finding in await granter.reconcile():
                if not finding.settled:
                    log.error(
                        "unknown outcome, decide with `tgmembership grants`: %s, %s", finding.grant.ref, finding.why
                    )
        except TGMembershipError as error:
            log.warning("trying again in %g s: %s", PAUSE, error)
        await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    app = make_app(os.environ["PAYMENT_SECRET"], os.environ.get("GRANTS_DB", "grants.db"))
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
