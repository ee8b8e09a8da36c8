"""Check that a delivery on disk is authentic, and report how the webhook secret is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tgmembership_async.cli.doctor.network import Check
from tgmembership_async.cli.doctor.shapes import field_name
from tgmembership_async.cli.webhook.command import headers_of, secret_of
from tgmembership_async.cli.webhook.verifier import AnyVerifier
from tgmembership_async.errors import UsageError, WebhookError
from tgmembership_async.webhooks.events import read_event
from tgmembership_async.webhooks.headers import claims, flat

_ANY_AGE: Final = 1e12
_EXPECTED: Final = (
    "expected X-Webhook-Signature: v1=<64 hex>,t=<seconds> (API v2), or t=<seconds>,v1=<128 hex> and a nonce (bots)"
)


def check_delivery(body: Path | None, headers: Path | None, secret_file: Path | None) -> Iterator[Check]:
    """Yield the check of a delivery, if there is one. It contains neither the secret nor a value of the delivery."""
    if body is None or headers is None:
        if body is not headers:
            msg = "--delivery and --headers belong together"
            raise UsageError(msg)
        return
    verifier = AnyVerifier(secret_of(secret_file), tolerance=_ANY_AGE)
    pairs = flat(headers_of(headers.read_bytes()))
    try:
        delivery = verifier.verify(pairs, body.read_bytes())
        event = read_event(delivery, delivery.signed_at)
    except WebhookError as error:
        yield Check("webhook", "failed", f"{error}. {_EXPECTED}; came {_came(pairs)}")
        return
    yield Check("webhook", "ok", f"{type(event).__name__} is authentic. {verifier.advice}")


def _came(pairs: list[tuple[str, str]]) -> str:
    found = [f"{claim.header} with {len(claim.mac)} hex digits" for claim in claims(pairs, None)]
    return ", ".join(found) or f"no signature in {', '.join(field_name(name) for name, _ in pairs) or 'no header'}"
