"""A process to kill: a Receiver that looks up payments in a project.

python joining_server.py DATABASE PORT FOLDER, where DATABASE is `sqlite` or the URL of a PostgreSQL. The webhook secret
is in FOLDER/secret, the project in the environment. Each call of a handler adds a line to FOLDER/handled: process id,
payment request, what was told, user, attempt.
"""

import os
import sys
from pathlib import Path

from webhook_server import on_aiohttp

from tgmembership_async.project import Project
from tgmembership_async.webhooks import (
    BalanceToppedUp,
    HandlingPolicy,
    MembershipPaid,
    PaymentUnexplained,
    PostgresInbox,
    ProjectVerifier,
    Receiver,
    SqliteInbox,
)

Told = MembershipPaid | BalanceToppedUp | PaymentUnexplained
PATIENT = HandlingPolicy(max_waits=10_000, max_attempts=100, backoff_base=0.02, backoff_cap=0.1)


def shop(folder: Path, database: str) -> Receiver:
    """Return the Receiver."""
    inbox = SqliteInbox(folder / "inbox.db") if database == "sqlite" else PostgresInbox(database)
    verifier = ProjectVerifier((folder / "secret").read_text(encoding="utf-8"))
    receiver = Receiver(verifier, inbox, project=Project.from_env(), policy=PATIENT)
    handled = os.open(folder / "handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def tell(event: Told) -> None:
        words = (os.getpid(), event.payment_request_id, type(event).__name__, event.user_id, event.attempt)
        os.write(handled, f"{' '.join(map(str, words))}\n".encode())

    receiver.on(MembershipPaid)(tell)
    receiver.on(BalanceToppedUp)(tell)
    receiver.on(PaymentUnexplained)(tell)
    return receiver


if __name__ == "__main__":
    on_aiohttp(shop(Path(sys.argv[3]), sys.argv[1]), int(sys.argv[2]))
