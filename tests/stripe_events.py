"""Webhook events as Stripe sends them, in the shapes of several API versions, and signed as Stripe signs."""

import hashlib
import hmac
import json
import time
from typing import Any

SECRET = "whsec_test_of_this_shop"
METADATA = {"plan_id": "1", "member_id": "42"}
CREATED = 1_790_000_000


def signed(body: bytes, secret: str = SECRET, *, at: float | None = None) -> dict[str, str]:
    """Return the headers with which Stripe sends a body (documented)."""
    timestamp = int(time.time() if at is None else at)
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={timestamp},v1={mac}"}


def event(kind: str, content: dict[str, Any], *, name: str = "evt_1", **fields: Any) -> bytes:
    """Return the body of an event."""
    envelope = {
        "id": name,
        "object": "event",
        "type": kind,
        "created": CREATED,
        "livemode": True,
        "api_version": "2026-10-28.endive",
        "data": {"object": content},
        "pending_webhooks": 1,
    }
    return json.dumps({**envelope, **fields}).encode()


def session(**fields: Any) -> dict[str, Any]:
    """Return a Checkout Session that is paid."""
    return {
        "id": "cs_1",
        "object": "checkout.session",
        "mode": "payment",
        "payment_status": "paid",
        "payment_intent": "pi_1",
        "invoice": None,
        "subscription": None,
        "metadata": METADATA,
        "customer_details": {"email": "ann@example.org"},
        **fields,
    }


def invoice(**fields: Any) -> dict[str, Any]:
    """Return a paid invoice without what depends on the API version."""
    return {
        "id": "in_1",
        "object": "invoice",
        "status": "paid",
        "billing_reason": "subscription_cycle",
        "total": 999,
        "amount_paid": 999,
        "customer_email": "ann@example.org",
        "metadata": {},
        "lines": {"data": []},
        **fields,
    }


BASIL = {
    "parent": {
        "type": "subscription_details",
        "quote_details": None,
        "subscription_details": {"metadata": METADATA, "subscription": "sub_1"},
    }
}
ACACIA = {"subscription": "sub_1", "subscription_details": {"metadata": METADATA}}
OLDER = {"subscription": "sub_1", "lines": {"data": [{"type": "subscription", "metadata": METADATA}] * 2}}


def charge(**fields: Any) -> dict[str, Any]:
    """Return a charge that was refunded completely."""
    return {
        "id": "ch_1",
        "object": "charge",
        "amount": 999,
        "amount_refunded": 999,
        "refunded": True,
        "payment_intent": "pi_1",
        "metadata": {},
        **fields,
    }
