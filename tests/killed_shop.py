"""A process with a Fulfillment, to be killed: python killed_shop.py BACKEND LIFE GOAL, in a folder with its ledger.

It takes the payments `pay-0`, `pay-1` and so on until the line GOAL of the file `taken`, and posts links and questions
to the address in `TELEGRAM`, with the number LIFE of this process.
"""

import os
import sys
from functools import partial

import anyio
import httpx
from no_tls import NO_TLS

from tgmembership_async import Session
from tgmembership_async.fulfillment import Fulfillment, FulfillmentPolicy
from tgmembership_async.grants import Grant, Granter, SqliteLedger

QUICK = FulfillmentPolicy(backoff_base=0.02, backoff_cap=0.2)
FIRST_MEMBER = 1_000_000


async def sell(life: str, goal: int) -> None:
    """Take payments up to the goal, and deliver until killed."""
    async with httpx.AsyncClient(base_url=os.environ["TELEGRAM"], trust_env=False, verify=NO_TLS, timeout=60) as http:

        async def deliver(grant: Grant) -> None:
            link = (grant.token and grant.token.link) or "without a link"
            (await http.post("/link", json={"life": life, "ref": grant.ref, "link": link})).raise_for_status()

        async def ask(grant: Grant) -> None:
            (await http.post("/question", json={"life": life, "ref": grant.ref})).raise_for_status()

        granter = Granter(Session.from_env(), SqliteLedger("grants.db"))
        async with Fulfillment(granter, deliver=deliver, attention=ask, every=0.2, policy=QUICK) as fulfillment:
            taken = await anyio.open_file("taken", "a+", encoding="utf-8")
            await taken.seek(0)
            for number in range(len(await taken.readlines()), goal):
                await fulfillment.take(f"pay-{number}", plan_id=1, member_id=FIRST_MEMBER + number)
                await taken.write(f"pay-{number}\n")
                await taken.flush()
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(partial(sell, sys.argv[2], int(sys.argv[3])), backend=sys.argv[1])
