"""Sample data for reports: a ledger and an inbox of a shop, whose clock is set by the caller."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tgmembership_async.errors import Forbidden, OutcomeUnknown, ReplyLost
from tgmembership_async.grants import GrantRequest, GrantStatus, Settlement, SqliteLedger
from tgmembership_async.values.models import AccessToken
from tgmembership_async.webhooks import Arrival, Delivery, SqliteInbox
from tgmembership_async.webhooks.events import read_event

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLANS = {1: "My first plan", 2: "A year of everything", 3: "Weekend pass"}
LOST = Settlement(
    GrantStatus.UNKNOWN,
    error=OutcomeUnknown("the reply was lost: the member may or may not have been granted", cause=ReplyLost("reset")),
)
REFUSED = Settlement(GrantStatus.REFUSED, error=Forbidden("the user blocked the bot", code=403))


def days_ago(days: int, step: int = 1) -> Iterable[datetime]:
    """Yield the times from so many days ago until now."""
    return (NOW - timedelta(days=ago) for ago in range(days, -1, -step))


async def fill_ledger(
    path: Path, times: Iterable[datetime], *, most: int = 8, held: int = 3, refused: float = 0.1
) -> None:
    """Fill a ledger with up to `most` grants at each time, and hold some of the last ones."""
    random, now = Random(4), NOW
    async with SqliteLedger(path, clock=lambda: now) as rows:
        for day, moment in enumerate(times):
            now = moment
            for number in range(random.randrange(1, most + 1)):
                ref = f"pi_{day}_{number}"
                await rows.claim(GrantRequest(ref, random.choice(list(PLANS)), day * 100 + number + 1))
                token = AccessToken(f"s3cr3t{day}x{number}", f"https://t.me/+s3cr3t{day}x{number}")
                granted = Settlement(GrantStatus.GRANTED, token=token)
                grant = await rows.settle(ref, REFUSED if random.random() < refused else granted)
                if grant.status is GrantStatus.GRANTED and random.random() < 0.8:
                    await rows.mark_delivered(ref)
        for number in range(held):
            await rows.claim(GrantRequest(f"stripe:pi_3Nf{number}kQ", 1, 4_200_001 + number, f"chat {number}"))
            await rows.settle(f"stripe:pi_3Nf{number}kQ", LOST)


def arrival(name: str, at: datetime, **data: Any) -> Arrival:
    """Return the delivery of an event, received two seconds after it was signed."""
    body = json.dumps({"event": name, "debug_id": "d", "data": data}).encode()
    delivery = Delivery(at, "n", body, sha256(body + str(at).encode()).hexdigest())
    received = at + timedelta(seconds=2)
    return Arrival(delivery, received, name, read_event(delivery, received).fingerprint)


def order(number: int, user: int, plan: int, at: datetime, **data: Any) -> Arrival:
    """Return the event of an order."""
    amount, currency = {1: ("9.99", "EUR"), 2: ("99", "EUR"), 3: ("250", "XTR")}[plan]
    fields = {"order_id": number, "user_id": user, "plan_id": plan, "plan_name": PLANS[plan]}
    fields |= {"amount": amount, "currency": currency}
    return arrival("order_completed", at, **{**fields, "paid_at": at.isoformat(), **data})


async def fill_inbox(path: Path, times: Iterable[datetime], *, most: int = 8, users: int = 60) -> None:
    """Fill an inbox with up to `most` orders at each time, of some users who order again, and some terminations."""
    random, number = Random(5), 0
    async with SqliteInbox(path) as inbox:
        for moment in times:
            for _ in range(random.randrange(1, most + 1)):
                number += 1
                user, plan = random.randrange(1, users), random.choice(list(PLANS))
                method = random.choice(["Stripe", "Stripe", "PayPal", "Crypto"])
                await inbox.store(order(number, user, plan, moment, payment_method=method), repeat_window=0)
                if random.random() < 0.2:
                    told = {"user_id": user, "plan_id": plan, "reason": "expired", "number": number}
                    await inbox.store(arrival("membership_terminated", moment, **told), repeat_window=0)
