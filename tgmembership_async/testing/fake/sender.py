"""Signed webhook events for tests of your own handlers."""

import json
import time
from collections.abc import Callable
from typing import Any

from tgmembership_async.testing.fake.deliveries import post_over_http
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks.receiver import Receiver
from tgmembership_async.webhooks.signature import sign

SAMPLE_SECRET = "whsec-for-tests-only"  # noqa: S105 - not a secret of anyone


class WebhookSender:
    """Signs events with `secret` and sends each of them once. Pass the same secret to the Verifier under test."""

    def __init__(self, secret: str | Secret = SAMPLE_SECRET, *, clock: Callable[[], float] = time.time) -> None:
        self.secret: Secret = secret if isinstance(secret, Secret) else Secret(secret)
        self._clock = clock
        self._number = 0

    def signed(self, name: str = "order_completed", /, **data: Any) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of an event with this `data`, signed now, to be posted by your own client.

        Each event gets a new `order_id` unless `data` has one, because a repeated event is not handled again.
        """
        self._number += 1
        data = {"order_id": str(self._number), **data}
        body = json.dumps({"event": name, "debug_id": f"dbg_{self._number:03d}", "data": data}).encode()
        nonce = f"{self._number:013x}"
        headers = sign(self.secret, body, nonce=nonce, timestamp=self._clock())
        return {"content-type": "application/json", **headers}, body

    async def post(self, target: str | Receiver, name: str = "order_completed", /, **data: Any) -> int | None:
        """Post an event to a URL, or pass it to a Receiver in process; return the status, or None."""
        headers, body = self.signed(name, **data)
        if isinstance(target, Receiver):
            return (await target.handle(headers, body)).status
        return await post_over_http(target, headers, body)
