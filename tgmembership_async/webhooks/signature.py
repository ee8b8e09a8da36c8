"""Is a delivery the service's own? Headers and body in, a Delivery or NotAuthentic out. No I/O.

*Documented*: upper-case hex HMAC-SHA512 with the webhook secret over `nonce.timestamp.payload`, one header
`t=<unix seconds>,v1=<hex>`, the nonce in a header of its own. The later generation signs `timestamp.payload` with
HMAC-SHA256. Where which header is found is `headers.py`.
"""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, cast

from attrs import field, frozen

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.settings import seconds
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

SIGNATURE_HEADER: Final = "X-Webhook-Signature"
NONCE_HEADER: Final = "X-Webhook-Nonce"
_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_UNFIT_FOR_A_SECRET: Final = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME: Final = 80


@frozen
class Delivery:
    """One authentic delivery: when it was signed (aware UTC), its nonce, the raw body, and the MAC in lower-case hex.

    `digest` names the signed delivery: a repeat that was signed anew has another. The later generation has none: "".
    """

    signed_at: datetime
    nonce: str
    body: bytes = field(repr=False)
    digest: str = field(repr=False)


@frozen
class HeaderNames:
    """The names of the headers, in lower case, of a signature and its nonce; "" where nothing has a nonce."""

    signature: str
    nonce: str


class _Key:
    """One secret, ready to be used: both hashes of HMAC (RFC 2104) have their half of the key already.

    To copy them takes a third less than `hmac.digest`, which schedules the key each time; and no frame on the way holds
    the secret.
    """

    __slots__ = ("_sha256", "_sha512")

    def __init__(self, secret: object) -> None:
        key = _checked(secret).reveal().encode()
        self._sha256 = _halves(hashlib.sha256, key)
        self._sha512 = _halves(hashlib.sha512, key)

    def mac(self, nonce: str | None, seconds: str, body: bytes) -> str:
        if nonce is None:
            (inner, outer), prefix = self._sha256, f"{seconds}."
        else:
            (inner, outer), prefix = self._sha512, f"{nonce}.{seconds}."
        inner, outer = inner.copy(), outer.copy()
        inner.update(prefix.encode("ascii") + body)  # one update: a second one costs more than joining
        outer.update(inner.digest())
        return outer.hexdigest()


def _halves(algorithm: Callable[[bytes], "hashlib._Hash"], key: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    size = algorithm(b"").block_size
    padded = (algorithm(key).digest() if len(key) > size else key).ljust(size, b"\0")
    return algorithm(bytes(byte ^ 0x36 for byte in padded)), algorithm(bytes(byte ^ 0x5C for byte in padded))


class Verifier:
    """Tell the service's deliveries from everybody else's.

    `secrets` is the webhook secret, or several while one replaces the other: all are tried, in constant time. What was
    signed more than `tolerance` seconds ago, or ahead, is refused. `signature_header` and `nonce_header` pin the names,
    which are not documented; without them, what is found is reported once at INFO. `clock` gives unix seconds.
    """

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
        self._keys = tuple(_Key(secret) for secret in several) if isinstance(several, Iterable) else ()
        if not self._keys:
            msg = "a Verifier needs a webhook secret, as a str or a Secret, or several of them"
            raise UsageError(msg)
        self.tolerance: float = seconds("tolerance", tolerance)
        self._signature_header = _name("signature_header", signature_header)
        self._nonce_header = _name("nonce_header", nonce_header)
        self._found: HeaderNames | None = None
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Verifier with {len(getattr(self, '_keys', ()))} secret(s)>"

    @property
    def found(self) -> HeaderNames | None:
        """Return the names under which the last authentic delivery had its signature and nonce, None before any."""
        return self._found

    def verify(self, headers: HeadersLike, body: bytes) -> Delivery:
        """Return the authentic delivery, or raise NotAuthentic, whatever the headers and the body hold.

        `headers` is a mapping or pairs, of str or bytes, as frameworks have them; `body` is the raw body. UsageError is
        for a caller who passes no bytes: parsed and written again, JSON has another signature.
        """
        if not isinstance(body, bytes):
            body = _as_bytes(body)
        known = self._known(headers, body)
        claim, nonce = known or self._search(headers, body)
        signed_at = int(claim.seconds)
        age = self._clock() - signed_at
        if not abs(age) <= self.tolerance:
            when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s ahead of this machine's clock"
            msg = f"it was signed {when}, and at most {self.tolerance:g} s are allowed; check the clock"
            raise NotAuthentic(msg)
        if known is None:
            self._note(claim, nonce)
        return Delivery(datetime.fromtimestamp(signed_at, UTC), nonce[1], body, claim.mac)

    def _known(self, headers: HeadersLike, body: bytes) -> tuple[Claim, Pair] | None:
        """Look under the names that the last delivery had: half the time of a search, and all of them agree on it."""
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
        return (claim, nonce) if _agreeing(self._keys, (nonce,), claim, body) else None

    def _search(self, headers: HeadersLike, body: bytes) -> tuple[Claim, Pair]:
        """Return the one signature and the nonce with which it is right."""
        pairs = flat(headers)
        found = claims(pairs, self._signature_header)
        if not found:
            msg = f"no signature in {self._signature_header or 'any header'}"
            raise NotAuthentic(msg)
        if len(found) > 1:
            msg = "more than one header looks like a signature; pin the right one with signature_header"
            raise NotAuthentic(msg)
        claim = found[0]
        _refuse_twice(claim.header, pairs)
        worth_trying = nonces(pairs, claim, self._nonce_header)
        if not worth_trying:
            msg = f"no usable nonce in {self._nonce_header or 'any header'}"
            raise NotAuthentic(msg)
        nonce = _agreeing(self._keys, worth_trying, claim, body)
        if nonce is None:
            msg = "the signature does not match; check the webhook secret, and that the body is the raw one"
            raise NotAuthentic(msg)
        _refuse_twice(nonce[0], pairs)
        return claim, nonce

    def _note(self, claim: Claim, nonce: Pair) -> None:
        found, self._found = self._found, HeaderNames(claim.header, nonce[0])
        if found is None and (claim.header, nonce[0]) != (self._signature_header, self._nonce_header or ""):
            names = f"signature_header={claim.header!r}, nonce_header={nonce[0]!r}"
            _logger.info("a delivery was authentic; pin its headers: Verifier(..., %s)", printable(names, 200))


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytearray | memoryview):
        return bytes(cast("bytearray", body))
    msg = f"verify() needs the raw body as bytes, not {type(body).__name__}"
    raise UsageError(msg)


def _refuse_twice(header: str, pairs: Sequence[Pair]) -> None:
    if sum(name == header for name, _ in pairs) > 1:
        msg = f"the header {printable(header, _LONGEST_NAME)} stands there twice"
        raise NotAuthentic(msg)


def _checked(secret: object) -> Secret:
    value = secret.reveal() if isinstance(secret, Secret) else secret
    if not isinstance(value, str):
        msg = f"a webhook secret is a str or a Secret, not {type(value).__name__}"
        raise UsageError(msg)
    if not value or _UNFIT_FOR_A_SECRET.search(value):
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


def _agreeing(keys: Sequence[_Key], worth_trying: Sequence[Pair], claim: Claim, body: bytes) -> Pair | None:
    """Return the nonce with which any secret gives the MAC. Every pair is computed and compared: time tells nothing.

    A function of its own, so that no right MAC stands in a frame that an error's traceback could show.
    """
    agreeing: Pair | None = None
    for nonce in worth_trying:
        for key in keys:
            if hmac.compare_digest(key.mac(nonce[1] if claim.has_nonce else None, claim.seconds, body), claim.mac):
                agreeing = nonce
    return agreeing


@hides_arguments
def sign(secret: str | Secret, body: bytes, *, nonce: str | None, timestamp: float) -> dict[str, str]:
    """Return the headers under which `body` is authentic, as the service would sign it at `timestamp` (unix seconds).

    `nonce` is printable ASCII without a dot; None signs as the later generation does. The names of the headers are
    *assumed*: a Verifier without pinned names finds the values under any.
    """
    if not 0 <= timestamp < 10**11 or (nonce is not None and not is_nonce(nonce)):
        msg = "sign() takes a nonce of printable ASCII without dots, and unix seconds of at most eleven digits"
        raise UsageError(msg)
    when = str(int(timestamp))
    mac = _Key(secret).mac(nonce, when, body)
    if nonce is None:
        return {SIGNATURE_HEADER: f"v1={mac},t={when}"}
    return {SIGNATURE_HEADER: f"t={when},v1={mac.upper()}", NONCE_HEADER: nonce}
