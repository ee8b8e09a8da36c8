"""Verify the signature of a delivery of API v2. No I/O, except that `ProjectVerifier.from_file` looks at its file.

*Documented*: `X-Webhook-Signature: v1=<64 hex>,t=<seconds>`, HMAC-SHA256 over `t + "." + raw body`, 300 seconds. Which
is the key, the text of the secret or its decoded hex, is unknown. Never run by us against the live service.
"""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, Self, get_args

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.settings import seconds
from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks.headers import HeadersLike, claim_in, flat
from tgmembership_async.webhooks.secret_file import NoSecret, SecretFile
from tgmembership_async.webhooks.signature import SIGNATURE_HEADER, Delivery, checked_secret, scrubber_of

SecretReading = Literal["text", "bytes"]
"""The reading of a webhook secret as a key: its text, or the bytes of its hex digits."""

PROJECT_HEADER: Final = "X-Project-ID"
_HEX: Final = "and for reading='bytes' one of hex digits"
_REPLACED: Final = "00"
_Key = tuple[SecretReading, Secret]
_READINGS: Final[tuple[SecretReading, ...]] = get_args(SecretReading)
_logger: Final = logging.getLogger("tgmembership_async.webhooks")


class CannotVerify(NotAuthentic):
    """A delivery that this receiver may be unable to verify because of its own secret, project id or clock.

    It is answered 503: the service sends it again, while it drops an event for good after 401 (documented).
    """


class ProjectVerifier:
    """Verifies that deliveries come from API v2.

    `secrets` is the webhook secret, or several during a rotation. `reading` pins how a secret becomes a key; without
    it, the text is tried, then the bytes, and `matched` shows which was right. With `project_id`, a delivery of another
    project is refused. `tolerance` is the maximum age of a signature in seconds, `clock` returns unix seconds. Raises
    UsageError for a wrong argument.
    """

    _file: SecretFile[list[_Key]] | None = None

    @hides_arguments
    def __init__(
        self,
        secrets: str | Secret | Sequence[str | Secret],
        *,
        project_id: str | None = None,
        reading: SecretReading | None = None,
        tolerance: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if reading is not None and reading not in _READINGS:
            msg = f"reading must be 'text', 'bytes' or None, not {reading!r:.80}"
            raise UsageError(msg)
        several = [secrets] if isinstance(secrets, str | Secret) else list(secrets)
        self._readings: Sequence[SecretReading] = _READINGS if reading is None else (reading,)
        self._keys: list[_Key] = [key for secret in several for key in self._keys_of(secret)]
        if not self._keys:
            msg = f"a ProjectVerifier needs a webhook secret, {_HEX}"
            raise UsageError(msg)
        self._scrubber = scrubber_of(several)  # kept for the logs
        self.project_id = project_id
        self.tolerance: float = seconds("tolerance", tolerance)
        self._clock = clock
        self._matched: SecretReading | None = None

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        project_id: str | None = None,
        reading: SecretReading | None = None,
        tolerance: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Return a ProjectVerifier with the secrets in a file, one on each line, which need not exist yet.

        The file is read when it appears, and again when it changes, as by `Verifier.from_file`. While it has no secret,
        or cannot be read, `verify` raises UsageError and a Receiver answers 503, so that the service sends the delivery
        again. A file that every user of the machine may read is logged as a warning.
        """
        verifier = cls(_REPLACED, project_id=project_id, reading=reading, tolerance=tolerance, clock=clock)
        verifier._keys = []
        verifier._file = SecretFile(path, verifier._keys_of)
        return verifier

    def __repr__(self) -> str:
        where = "" if self._file is None else f" in {self._file.path}"
        return f"<ProjectVerifier, secret{where} read as {self._matched or 'text or bytes'}>"

    @property
    def matched(self) -> SecretReading | None:
        """Return the reading of the secret that verified the last delivery, or None before the first one."""
        return self._matched

    def verify(self, headers: HeadersLike, body: bytes) -> Delivery:
        """Return the delivery. Raises NotAuthentic if its signature is missing or wrong.

        Raises CannotVerify if the cause may be here: the signature is right but too old for our clock, the delivery is
        for another project, or no delivery was verified yet, so that the secret may be a wrong one. Raises UsageError
        if the file of `from_file` has no secret yet.
        """
        if self._file is not None:
            self._look_at(self._file)
        pairs = flat(headers, only=(SIGNATURE_HEADER.lower(), PROJECT_HEADER.lower()))
        values = dict(pairs)
        claim = claim_in(SIGNATURE_HEADER.lower(), values.get(SIGNATURE_HEADER.lower(), ""))
        if claim is None or claim.has_nonce or len(values) != len(pairs):
            msg = f"no signature of API v2 in {SIGNATURE_HEADER}, or a header is present twice"
            raise NotAuthentic(msg)
        reading = _reading(self._keys, claim.seconds, body, claim.mac)
        if reading is None and self._matched is not None:
            msg = "the signature does not match; check that the body is the raw one"
            raise NotAuthentic(msg)
        if reading is None:
            msg = "the signature does not match, and none has so far: check the webhook secret"
            raise CannotVerify(msg)
        project_id = self.project_id
        if project_id is not None and values.get(PROJECT_HEADER.lower(), project_id).lower() != project_id.lower():
            msg = "the delivery is for another project: check project_id"
            raise CannotVerify(msg)
        signed_at = int(claim.seconds)
        age = self._clock() - signed_at
        if not abs(age) <= self.tolerance:
            msg = f"it was signed {age:.0f} s ago, and at most {self.tolerance:g} s are allowed: check the clock"
            raise CannotVerify(msg)
        if self._matched is None:
            _logger.info("a delivery was authentic; pin how the secret is read: ProjectVerifier(reading=%r)", reading)
        self._matched = reading
        return Delivery(datetime.fromtimestamp(signed_at, UTC), "", body, claim.mac)

    def _look_at(self, file: SecretFile[list[_Key]]) -> None:
        """Take the keys of the file. New ones are unproved, so that a wrong new secret loses no event either."""
        keys = [key for keys in file.read() for key in keys]
        if not keys:
            msg = f"no webhook secret yet: {file.path} needs one, {_HEX}"
            raise NoSecret(msg)
        if keys != self._keys:
            self._keys, self._matched = keys, None

    def _keys_of(self, secret: str | Secret) -> list[_Key]:
        return [(reading, Secret(key)) for reading in self._readings for key in _key(secret, reading)]


def _key(secret: str | Secret, reading: SecretReading) -> list[str]:
    """Return the key as latin-1 text, or nothing if the secret cannot be read so."""
    text = checked_secret(secret).reveal()
    if reading == "text":
        return [text.encode().decode("latin-1")]
    try:
        return [bytes.fromhex(text).decode("latin-1")]
    except ValueError:
        return []


def _reading(keys: Sequence[_Key], when: str, body: bytes, mac: str) -> SecretReading | None:
    """Return how the right key was read. All keys are compared, so that timing is constant."""
    matched: SecretReading | None = None
    signed = f"{when}.".encode() + body
    for reading, key in keys:
        computed = hmac.new(key.reveal().encode("latin-1"), signed, hashlib.sha256).hexdigest()
        if hmac.compare_digest(computed, mac):
            matched = matched or reading
    return matched
