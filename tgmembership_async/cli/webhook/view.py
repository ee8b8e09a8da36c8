"""Print events."""

from typing import Any

from tgmembership_async.webhooks import Event


def fields_of(event: Event) -> dict[str, Any]:
    """Return an event as a row, with all of its data."""
    return {
        "event": event.name,
        "debug_id": event.debug_id,
        "signed_at": event.signed_at.isoformat(),
        "fingerprint": event.fingerprint,
        "data": dict(event.data),
    }
