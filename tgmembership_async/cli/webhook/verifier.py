"""Verify a delivery of a bot or of a project with one secret, and report how it was signed."""

from collections.abc import Mapping
from typing import Any, Final

from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks import Delivery, ProjectVerifier, Verifier
from tgmembership_async.webhooks.headers import HeadersLike, claim_in, flat
from tgmembership_async.webhooks.project_signature import SecretReading
from tgmembership_async.webhooks.signature import SIGNATURE_HEADER

_KEYS: Final[Mapping[SecretReading, str]] = {
    "text": "the text of the secret",
    "bytes": "the bytes that the secret's hex digits stand for",
}


class AnyVerifier(Verifier):
    """Verifies deliveries of a bot, and those signed as API v2 does."""

    @hides_arguments
    def __init__(self, secret: Secret, **options: Any) -> None:
        super().__init__(secret, **options)
        self._of_project = ProjectVerifier(secret, **options)
        self._was_project = False

    def verify(self, headers: HeadersLike, body: bytes) -> Delivery:
        """Return the delivery. The Verifier for this kind of signature verifies it and raises its errors."""
        pairs = flat(headers)
        claims = (claim_in(name, value) for name, value in pairs if name == SIGNATURE_HEADER.lower())
        is_project = any(claim is not None and not claim.has_nonce for claim in claims)
        delivery = self._of_project.verify(pairs, body) if is_project else super().verify(pairs, body)
        self._was_project = is_project
        return delivery

    @property
    def advice(self) -> str:
        """Return how the last authentic delivery was signed, and how to accept no other; "" before the first one."""
        matched = self._of_project.matched
        if self._was_project and matched is not None:
            pin = f"ProjectVerifier(..., reading={matched!r})"
            return f"Signature of API v2; its key is {_KEYS[matched]}. To accept no other: {pin}"
        found = self.found
        if found is None:
            return ""
        if not found.nonce:
            return f"Signature in the header {found.signature!r}, no nonce: the later API generation of the service."
        pins = f"signature_header={found.signature!r}, nonce_header={found.nonce!r}"
        where = f"Signature in the header {found.signature!r}, nonce in {found.nonce!r}"
        return f"{where}. To accept no other: Verifier(..., {pins})"
