"""Print events, and the headers in which signatures were found."""

from typing import Any

from tgmembership_async.webhooks import Event, Verifier


def fields_of(event: Event) -> dict[str, Any]:
    """Return an event as a row, with all of its data."""
    return {
        "event": event.name,
        "debug_id": event.debug_id,
        "signed_at": event.signed_at.isoformat(),
        "fingerprint": event.fingerprint,
        "data": dict(event.data),
    }


def header_advice(verifier: Verifier) -> str:
    """Return in which headers signature and nonce were found, and how to configure a Verifier with them."""
    found = verifier.found
    if found is None:
        return "No delivery was authentic so far."
    if not found.nonce:
        return f"Signature in the header {found.signature!r}, no nonce: the later API generation of the service."
    pins = f"signature_header={found.signature!r}, nonce_header={found.nonce!r}"
    where = f"Signature in the header {found.signature!r}, nonce in {found.nonce!r}"
    return f"{where}. To accept no other: Verifier(..., {pins})"
