"""Secrets that become known at runtime, such as the access tokens in replies, and a filter that masks them in logs."""

import logging
from threading import Lock
from typing import Final, Protocol
from weakref import WeakSet

from tgmembership_async.values.scrubber import Scrubber

MOST_LEARNED: Final = 64
_LONG_ENOUGH_TO_BE_UNIQUE: Final = 8
_ESCAPES: Final = (b"%", b"\\", b"&", b"\0")
_PACKAGE: Final = "tgmembership_async"
LOGGERS: Final = (
    _PACKAGE,
    *(f"{_PACKAGE}.{part}" for part in ("grants", "grants.restored", "fulfillment", "payments", "storage", "webhooks")),
    *(f"{_PACKAGE}.{part}" for part in ("cli.mcp", "ext.aiogram", "ext.fastapi")),
)
"""All loggers of the package: a filter of a logger does not see the records of those below it."""


class Learned:
    """The last secrets that replies contained. Learning one takes under a microsecond; they are used in errors only."""

    __slots__ = ("__weakref__", "_scrubber", "_secrets")

    def __init__(self) -> None:
        self._secrets: dict[str, bytes] = {}
        self._scrubber: Scrubber | None = None

    def __repr__(self) -> str:
        return f"<Learned {len(self._secrets)} secret(s)>"

    def add(self, secret: str) -> None:
        """Learn a secret and forget the oldest of too many. A short one is skipped: it occurs in text by chance."""
        if len(secret) < _LONG_ENOUGH_TO_BE_UNIQUE or secret in self._secrets:
            return
        self._secrets[secret] = secret.encode(errors="surrogatepass")
        self._scrubber = None
        if len(self._secrets) > MOST_LEARNED:
            del self._secrets[next(iter(self._secrets))]

    def scrub(self, data: bytes) -> bytes:
        """Return the bytes with all learned secrets masked; the same object if there are none."""
        if not any(mark in data for marks in (self._secrets.values(), _ESCAPES) for mark in marks):
            return data
        if self._scrubber is None:
            self._scrubber = Scrubber(dict.fromkeys(self._secrets, "***"))
        return self._scrubber.scrub(data)

    def scrub_text(self, text: str) -> str:
        """Return the text with all learned secrets masked; the same object if there are none."""
        data = text.encode(errors="surrogatepass")
        clean = self.scrub(data)
        return text if clean is data else clean.decode(errors="surrogatepass")


class _Scrubs(Protocol):
    def scrub_text(self, text: str) -> str: ...


class Redact(logging.Filter):
    """Mask the secrets of all living owners in the records of a logger, also in their tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.scrubbers: WeakSet[_Scrubs] = WeakSet()
        self._lock = Lock()

    def add(self, *scrubbers: _Scrubs) -> None:
        """Mask from now on what these mask, as long as they live."""
        with self._lock:  # in a copy: another thread may be masking with the others
            self.scrubbers = WeakSet((*self.scrubbers, *scrubbers))

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the secrets in a record, and return True."""
        message = record.getMessage()
        shown = self._scrubbed(message)
        if shown != message:
            record.msg, record.args = shown, None
        if record.exc_info:
            raised = logging.Formatter().formatException(record.exc_info)
            shown = self._scrubbed(raised)
            if shown != raised:
                record.exc_info, record.exc_text = None, shown
        return True

    def _scrubbed(self, text: str) -> str:
        for scrubber in tuple(self.scrubbers):
            text = scrubber.scrub_text(text)
        return text


REDACT: Final = Redact()
"""Masks the secrets of open Sessions, their transports and Verifiers in this package's logs, and in httpcore's."""
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(REDACT)
