"""An event for programs and for eyes."""

from typing import Any

from tgmembership_async.webhooks import Event, Verifier


def fields_of(event: Event) -> dict[str, Any]:
    """Return what is told of an event, its data whole."""
    return {
        "event": event.name,
        "debug_id": event.debug_id,
        "signed_at": event.signed_at.isoformat(),
        "fingerprint": event.fingerprint,
        "data": dict(event.data),
    }


def header_advice(verifier: Verifier) -> str:
    """Say in which headers signature and nonce were found, and how to pin them."""
    found = verifier.found
    if found is None:
        return "No delivery was authentic so far."
    if not found.nonce:
        return f"Signature in the header {found.signature!r}, without a nonce: the later generation of the service."
    pins = f"signature_header={found.signature!r}, nonce_header={found.nonce!r}"
    return f"Signature in the header {found.signature!r}, nonce in {found.nonce!r}. To pin them: Verifier(..., {pins})"
