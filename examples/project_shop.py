"""The books of a project's shop: who has paid for what, each payment once.

To try the example without an account, run `tgmembership fake --generation v2 --port 8000 --order-every 5`, paste the
three lines that it prints into another terminal, and run there

    python examples/project_shop.py

The first start sets the webhook, and keeps its secret in a file: the service shows it once. Then each payment is a row
of `books.db`. On your own project, SHOP_URL is the https address at which the service reaches this process.
"""

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import uvicorn

from tgmembership_async.project import Project
from tgmembership_async.webhooks import (
    BalanceToppedUp,
    MembershipPaid,
    PaymentUnexplained,
    ProjectVerifier,
    Receiver,
    SqliteInbox,
)

SHOP = os.environ.get("SHOP_URL", "http://127.0.0.1:8080")
FOLDER = Path(os.environ.get("SHOP_FOLDER", "."))
Row = tuple[str, int | None, str, str, str]


def enter(row: Row) -> None:
    """Write a payment into the books. A handler may run again after a crash: the fingerprint is then there already."""
    with closing(sqlite3.connect(FOLDER / "books.db")) as books, books:
        books.execute("CREATE TABLE IF NOT EXISTS paid (fingerprint TEXT PRIMARY KEY, user_id, what, amount, ends_at)")
        books.execute("INSERT OR IGNORE INTO paid VALUES (?, ?, ?, ?, ?)", row)


def shop(secret: str) -> Receiver:
    """Return the Receiver."""
    receiver = Receiver(ProjectVerifier(secret), SqliteInbox(FOLDER / "inbox.db"), project=Project.from_env())

    @receiver.on(MembershipPaid)
    async def membership(event: MembershipPaid) -> None:
        ends_at = str(event.membership.ends_at)
        row = (event.fingerprint, event.user_id, str(event.plan_name), str(event.amount), ends_at)
        await asyncio.to_thread(enter, row)

    @receiver.on(BalanceToppedUp)
    async def top_up(event: BalanceToppedUp) -> None:
        await asyncio.to_thread(enter, (event.fingerprint, event.user_id, "balance", str(event.amount), ""))

    @receiver.on(PaymentUnexplained)
    async def question(event: PaymentUnexplained) -> None:
        await asyncio.to_thread(enter, (event.fingerprint, event.user_id, event.reason, str(event.amount), ""))
        sys.stderr.write(f"Look at the payment request {event.payment_request_id}: {event.reason}\n")

    return receiver


async def webhook_secret() -> str:
    """Return the secret in the file; set the webhook first if there is none."""
    path = FOLDER / "project-webhook.secret"
    path.touch(mode=0o600)  # before the call: a secret that cannot be stored would be lost
    if not path.read_text(encoding="utf-8"):
        async with Project.from_env() as project:
            webhook = await project.set_webhook(f"{SHOP}/tgmembership")
        if webhook.secret is None:
            sys.exit("the reply contained no secret: look for it in the project's dashboard")
        path.write_text(webhook.secret.reveal(), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    uvicorn.run(shop(asyncio.run(webhook_secret())).asgi, port=int(os.environ.get("PORT", "8080")))
