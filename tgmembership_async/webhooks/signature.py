"""Verify the signature of a delivery. No I/O, except that `Verifier.from_file` looks at its file.

*Documented*: upper-case hex HMAC-SHA512 with the webhook secret over `nonce.timestamp.payload`, one header
`t=<unix seconds>,v1=<hex>`, and the nonce in another header. The later generation signs `timestamp.payload` with
HMAC-SHA256. `headers.py` finds the headers.
"""

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, Self, cast

from attrs import field, frozen

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.settings import seconds
from tgmembership_async.values.learned_secrets import REDACT
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks.headers import (
    NO_NONCE,
    Claim,
    HeadersLike,
    Pair,
    claim_in,
    claims,
    flat,
    is_nonce,
    nonces,
)
from tgmembership_async.webhooks.secret_file import SecretFile

SIGNATURE_HEADER: Final = "X-Webhook-Signature"
NONCE_HEADER: Final = "X-Webhook-Nonce"
_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_LONG_ENOUGH_TO_BE_UNIQUE: Final = 8
_NOT_IN_SECRETS: Final = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME: Final = 80
_REPLACED: Final = "never-used"


@frozen
class Delivery:
    """One authentic delivery: the time of signing (aware UTC), the nonce, the raw body, and the MAC in lower-case hex.

    `digest` is the MAC and identifies the signed delivery: a repeat with another signature has another digest. `nonce`
    is "" in the later generation, which has none.
    """

    signed_at: datetime
    nonce: str
    body: bytes = field(repr=False)
    digest: str = field(repr=False)


@frozen
class HeaderNames:
    """The lower-case names of the headers with the signature and the nonce; `nonce` is "" if there is no nonce."""

    signature: str
    nonce: str


class _Key:
    """One secret as prepared hash objects: the inner and outer hash of HMAC (RFC 2104) have processed the key already.

    Copying them takes a third less time than `hmac.digest`, which processes the key each time. And no frame holds the
    secret during verification.
    """

    __slots__ = ("_sha256", "_sha512")

    def __init__(self, secret: object) -> None:
        key = checked_secret(secret).reveal().encode()
        self._sha256 = _halves(hashlib.sha256, key)
        self._sha512 = _halves(hashlib.sha512, key)

    def mac(self, nonce: str | None, seconds: str, body: bytes) -> str:
        if nonce is None:
            (inner, outer), prefix = self._sha256, f"{seconds}."
        else:
            (inner, outer), prefix = self._sha512, f"{nonce}.{seconds}."
        inner, outer = inner.copy(), outer.copy()
        inner.update(prefix.encode("ascii") + body)  # one update: a second one takes longer than joining
        outer.update(inner.digest())
        return outer.hexdigest()


def _halves(algorithm: Callable[[bytes], "hashlib._Hash"], key: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    size = algorithm(b"").block_size
    padded = (algorithm(key).digest() if len(key) > size else key).ljust(size, b"\0")
    return algorithm(bytes(byte ^ 0x36 for byte in padded)), algorithm(bytes(byte ^ 0x5C for byte in padded))


class Verifier:
    """Verifies that deliveries come from the service.

    `secrets` is the webhook secret, or several during a rotation: all are tried, in constant time. A delivery that was
    signed more than `tolerance` seconds ago, or in the future, is refused. `signature_header` and `nonce_header` pin
    the names of the headers, which are not documented. Without them the names that were found are logged once at INFO.
    `clock` returns unix seconds. Raises UsageError for a wrong argument.
    """

    _file: SecretFile[_Key] | None = None

    @hides_arguments
    def __init__(
        self,
        secrets: str | Secret | Sequence[str | Secret],
        *,
        tolerance: float = 300.0,
        signature_header: str | None = None,
        nonce_header: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        several: object = [secrets] if isinstance(secrets, str | Secret) else secrets
        several = tuple(several) if isinstance(several, Iterable) else ()
        self._keys = tuple(map(_Key, several))
        if not self._keys:
            msg = "a Verifier needs a webhook secret, as a str or a Secret, or several of them"
            raise UsageError(msg)
        self._scrubber = scrubber_of(several)
        self.tolerance: float = seconds("tolerance", tolerance)
        self._signature_header = _name("signature_header", signature_header)
        self._nonce_header = _name("nonce_header", nonce_header)
        self._found: HeaderNames | None = None
        self._clock = clock

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        tolerance: float = 300.0,
        signature_header: str | None = None,
        nonce_header: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return a Verifier with the secrets in a file, one on each line, which need not exist yet.

        The file is read when it appears, and again when it changes; a byte order mark does not matter. While it has no
        secret, or cannot be read, `verify` raises UsageError and a Receiver answers 503, so that the service sends the
        delivery again. A file that every user of the machine may read is logged as a warning.
        """
        verifier = cls(
            _REPLACED, tolerance=tolerance, signature_header=signature_header, nonce_header=nonce_header, clock=clock
        )
        verifier._file = SecretFile(path, _Key)
        return verifier

    def __repr__(self) -> str:
        if self._file is not None:
            return f"<Verifier with the secrets in {self._file.path}>"
        return f"<Verifier with {len(getattr(self, '_keys', ()))} secret(s)>"

    @property
    def found(self) -> HeaderNames | None:
        """Return the header names of the last authentic delivery, or None before the first one."""
        return self._found

    def verify(self, headers: HeadersLike, body: bytes) -> Delivery:
        """Return the delivery. Raises NotAuthentic if the signature is missing, wrong or too old.

        `headers` is a mapping or pairs, of str or bytes. `body` is the raw body: JSON that was parsed and serialized
        again has another signature. Raises UsageError if `headers` are not pairs, `body` is not bytes, or the file of
        `from_file` has no secret yet.
        """
        if not isinstance(body, bytes):
            body = _as_bytes(body)
        keys = self._keys if self._file is None else self._file.read()
        known = self._known(keys, headers, body)
        claim, nonce = known or self._search(keys, headers, body)
        signed_at = int(claim.seconds)
        age = self._clock() - signed_at
        if not abs(age) <= self.tolerance:
            when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s ahead of this machine's clock"
            msg = f"it was signed {when}, and at most {self.tolerance:g} s are allowed; check the clock"
            raise NotAuthentic(msg)
        if known is None:
            self._note(claim, nonce)
        return Delivery(datetime.fromtimestamp(signed_at, UTC), nonce[1], body, claim.mac)

    def _known(self, keys: Sequence[_Key], headers: HeadersLike, body: bytes) -> tuple[Claim, Pair] | None:
        """Try the header names of the last delivery, in half the time of a search. Return None if they fail."""
        names = self._found
        if names is None:
            return None
        pairs = flat(headers, only=(names.signature, names.nonce))
        values = dict(pairs)
        claim = claim_in(names.signature, values.get(names.signature, ""))
        if claim is None or not len(values) == len(pairs) == 1 + claim.has_nonce:
            return None
        nonce = (names.nonce, values[names.nonce]) if claim.has_nonce else NO_NONCE
        if nonce is not NO_NONCE and not is_nonce(nonce[1]):
            return None
        return (claim, nonce) if _matching_nonce(keys, (nonce,), claim, body) else None

    def _search(self, keys: Sequence[_Key], headers: HeadersLike, body: bytes) -> tuple[Claim, Pair]:
        """Return the only signature and the nonce for which it is right. Raises NotAuthentic."""
        pairs = flat(headers)
        found = claims(pairs, self._signature_header)
        if not found:
            msg = f"no signature in {self._signature_header or 'any header'}"
            raise NotAuthentic(msg)
        if len(found) > 1:
            msg = "more than one header looks like a signature; pin the right one with signature_header"
            raise NotAuthentic(msg)
        claim = found[0]
        self._refuse_duplicate(claim.header, pairs)
        candidates = nonces(pairs, claim, self._nonce_header)
        if not candidates:
            msg = f"no usable nonce in {self._nonce_header or 'any header'}"
            raise NotAuthentic(msg)
        nonce = _matching_nonce(keys, candidates, claim, body)
        if nonce is None:
            msg = "the signature does not match; check the webhook secret, and that the body is the raw one"
            raise NotAuthentic(msg)
        self._refuse_duplicate(nonce[0], pairs)
        return claim, nonce

    def _refuse_duplicate(self, header: str, pairs: Sequence[Pair]) -> None:
        if sum(name == header for name, _ in pairs) > 1:
            msg = f"the header {printable(self._scrubber.scrub_text(header), _LONGEST_NAME)} is present twice"
            raise NotAuthentic(msg)

    def _note(self, claim: Claim, nonce: Pair) -> None:
        found, self._found = self._found, HeaderNames(claim.header, nonce[0])
        if found is None and (claim.header, nonce[0]) != (self._signature_header, self._nonce_header or ""):
            names = f"signature_header={claim.header!r}, nonce_header={nonce[0]!r}"
            _logger.info("a delivery was authentic; pin its headers: Verifier(..., %s)", printable(names, 200))


def scrubber_of(secrets: Iterable[object]) -> Scrubber:
    """Return a scrubber for the secrets of a verifier, which log lines of the package do not show either."""
    plain = (secret.reveal() if isinstance(secret, Secret) else str(secret) for secret in secrets)
    scrubber = Scrubber({secret: "***" for secret in plain if len(secret) >= _LONG_ENOUGH_TO_BE_UNIQUE})
    REDACT.add(scrubber)
    return scrubber


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytearray | memoryview):
        return bytes(cast("bytearray", body))
    msg = f"verify() needs the raw body as bytes, not {type(body).__name__}"
    raise UsageError(msg)


def checked_secret(secret: object) -> Secret:
    """Return a webhook secret. Raises UsageError unless it is a text without white space."""
    value = secret.reveal() if isinstance(secret, Secret) else secret
    if not isinstance(value, str):
        msg = f"a webhook secret is a str or a Secret, not {type(value).__name__}"
        raise UsageError(msg)
    if not value or _NOT_IN_SECRETS.search(value):
        msg = "the webhook secret is empty or holds white space: look for a line end or quotes around it"
        raise UsageError(msg)
    return Secret(value)


def _name(parameter: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_NAME:
        msg = f"{parameter} must be the name of a header, or None, not {value!r:.80}"
        raise UsageError(msg)
    return value.strip().lower()


def _matching_nonce(keys: Sequence[_Key], candidates: Sequence[Pair], claim: Claim, body: bytes) -> Pair | None:
    """Return the nonce with which one of the secrets gives the MAC. All pairs are compared, so that timing is constant.

    This is a separate function so that no correct MAC is in a frame that the traceback of an error could show.
    """
    matching: Pair | None = None
    for nonce in candidates:
        for key in keys:
            if hmac.compare_digest(key.mac(nonce[1] if claim.has_nonce else None, claim.seconds, body), claim.mac):
                matching = nonce
    return matching


@hides_arguments
def sign(secret: str | Secret, body: bytes, *, nonce: str | None, timestamp: float) -> dict[str, str]:
    """Return the headers with which the service would sign `body` at `timestamp` (unix seconds).

    `nonce` is printable ASCII without a dot; None signs as the later generation does. The names of the headers are
    *assumed*: a Verifier without pinned names accepts any names. Raises UsageError for values out of range.
    """
    if not 0 <= timestamp < 10**11 or (nonce is not None and not is_nonce(nonce)):
        msg = "sign() takes a nonce of printable ASCII without dots, and unix seconds of at most eleven digits"
        raise UsageError(msg)
    when = str(int(timestamp))
    mac = _Key(secret).mac(nonce, when, body)
    if nonce is None:
        return {SIGNATURE_HEADER: f"v1={mac},t={when}"}
    return {SIGNATURE_HEADER: f"t={when},v1={mac.upper()}", NONCE_HEADER: nonce}
