"""Webhook events for tests of your own handlers: signed as the service signs them, posted where you say."""

import json
import time
from collections.abc import Callable
from typing import Any

from tgmembership_async.testing.fake.deliveries import post_over_http
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks.receiver import Receiver
from tgmembership_async.webhooks.signature import sign

SAMPLE_SECRET = "whsec-for-tests-only"  # noqa: S105 - that is what it is for


class WebhookSender:
    """Sign events with `secret`, which belongs into the Verifier under test, and deliver each of them once."""

    def __init__(self, secret: str | Secret = SAMPLE_SECRET, *, clock: Callable[[], float] = time.time) -> None:
        self.secret: Secret = secret if isinstance(secret, Secret) else Secret(secret)
        self._clock = clock
        self._number = 0

    def signed(self, name: str = "order_completed", /, **data: Any) -> tuple[dict[str, str], bytes]:
        """Return headers and body of an event with this `data`, signed now, for a client of your own to post.

        Each has an `order_id` of its own unless you give one: the same event again would not be handled again.
        """
        self._number += 1
        data = {"order_id": str(self._number), **data}
        body = json.dumps({"event": name, "debug_id": f"dbg_{self._number:03d}", "data": data}).encode()
        nonce = f"{self._number:013x}"
        headers = sign(self.secret, body, nonce=nonce, timestamp=self._clock())
        return {"content-type": "application/json", **headers}, body

    async def post(self, target: str | Receiver, name: str = "order_completed", /, **data: Any) -> int | None:
        """Post an event to a URL, or hand it to a Receiver in process; return the status, None without an answer."""
        headers, body = self.signed(name, **data)
        if isinstance(target, Receiver):
            return (await target.handle(headers, body)).status
        return await post_over_http(target, headers, body)
