"""A web shop in ten lines: each payment that is taken is granted once, and ends as a link or as a question.

To try it, run `tgmembership fake --port 8000`, paste the three lines that it prints into another terminal, and run

    uvicorn --app-dir examples fastapi_first_shop:app

Your own shop must verify the provider's signature first: see fastapi_shop.py and stripe_shop.py.
"""

from fastapi import FastAPI

from tgmembership_async import Session, TGMembershipError
from tgmembership_async.ext.fastapi import FulfillmentDep, answer_error, lifespan
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Grant, Granter, SqliteLedger


async def deliver(grant: Grant) -> None:  # called again until it returns without an exception
    print("send to", grant.note, "the link", grant.token and grant.token.link)


async def ask_owner(grant: Grant) -> None:  # called once for each grant that only a person can decide
    print("decide with `tgmembership grants`:", grant.ref, grant.status)


session = Session.from_env()
fulfillment = Fulfillment(Granter(session, SqliteLedger("grants.db")), deliver=deliver, attention=ask_owner)
app = FastAPI(lifespan=lifespan(session, fulfillment=fulfillment))
app.add_exception_handler(TGMembershipError, answer_error)


@app.post("/payments/{payment_id}")
async def paid(payment_id: str, user_id: int, email: str, fulfillment: FulfillmentDep) -> str:
    return (await fulfillment.take(payment_id, plan_id=1, member_id=user_id, note=email)).status
