"""Request, Response and Headers: our own values. The key is in none of their public fields."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Final, Literal, Protocol, cast
from urllib.parse import quote, urlencode

from attrs import field, frozen, mutable

from tgmembership_async.errors import CallError, UsageError
from tgmembership_async.protocol.envelope import Envelope, NoEnvelope, parse
from tgmembership_async.protocol.reply_limits import reply_limit
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, Target
from tgmembership_async.version import __version__

BodyFormat = Literal["json", "form"]
Verb = Literal["GET", "POST", "DELETE"]
Gateway503 = Literal["unknown", "turned away"]
Params = Mapping[str, str | int]

# A shorter key may well stand in a reply by chance; such a key is masked only where it follows `bot<ID>/`.
_LONG_ENOUGH_TO_BE_UNIQUE: Final = 12


class Safety(StrEnum):
    """What a repetition of a call does."""

    SAFE = "safe"
    """It changes nothing."""
    IDEMPOTENT = "idempotent"
    """Twice is the same as once."""
    UNSAFE = "unsafe"
    """Twice is twice: never repeated once the service may have acted."""


def _pairs(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(items)


@frozen
class Headers:
    """HTTP header fields in the order they came; names are matched in any case."""

    items: tuple[tuple[str, str], ...] = field(default=(), converter=_pairs)

    @classmethod
    def of(cls, source: "Headers | Mapping[str, str] | Iterable[tuple[str, str]]") -> "Headers":
        """Take headers from a mapping or from pairs."""
        if isinstance(source, Headers):
            return source
        return cls(cast("Mapping[str, str]", source).items() if isinstance(source, Mapping) else source)

    def get(self, name: str) -> str | None:
        """Return the first value under `name`, or None."""
        wanted = name.lower()
        return next((value for key, value in self.items if key.lower() == wanted), None)

    def with_(self, name: str, value: str) -> "Headers":
        """Return these headers with `name` set to `value` and to nothing else."""
        kept = ((key, old) for key, old in self.items if key.lower() != name.lower())
        return Headers((*kept, (name, value)))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items)


STANDARD_HEADERS: Final = Headers(
    (
        ("user-agent", f"tgmembership-async/{__version__}"),
        ("accept", "application/json"),
        ("accept-encoding", "identity"),
    )
)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HEADER_VALUE: Final = re.compile(r"(?![\t ])[\t\x20-\x7e\x80-\xff]*(?<![\t ])")
_SAYS_WHERE_IT_ENDS: Final = frozenset({"content-length", "transfer-encoding"})
"""Where it is said twice, two servers on the way may take one request for two."""
_CONTENT_TYPE: Final[Mapping[BodyFormat, str]] = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
}


@lru_cache(maxsize=64)
def _with_content_type(headers: Headers, body_format: BodyFormat) -> Headers:
    return headers.with_("content-type", _CONTENT_TYPE[body_format])


def addressed(headers: Headers, authority: str) -> Headers:
    """Return headers with the host in front: theirs, if they name one, or else the URL's `authority`."""
    others = ((name, value) for name, value in headers if name.lower() != "host")
    return Headers((("host", headers.get("host") or authority), *others))


def _check(headers: Headers) -> None:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            msg = f"a middleware added a header that HTTP cannot carry, under the name {name!r:.80}"
            raise UsageError(msg)
        if name.lower() in _SAYS_WHERE_IT_ENDS:
            msg = f"a middleware added the header {name}, which says where the request ends: leave it to the Session"
            raise UsageError(msg)


@frozen
class Timeouts:
    """Seconds that one attempt may take: to connect, between two reads or writes, and in all (None: no own bound)."""

    connect: float
    read: float
    exchange: float | None = None


@frozen
class Account:
    """One bot at one service: where requests go, by whose key, and how to read answers. Its repr shows no key."""

    scheme: str
    host: str
    port: int | None
    prefix: str
    bot_id: int
    api_key: Secret
    body_format: BodyFormat = "json"
    gateway_503: Gateway503 = "unknown"

    @cached_property
    def authority(self) -> str:
        """Return `host` or `host:port`, with IPv6 addresses in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @cached_property
    def origin(self) -> str:
        """Return `scheme://authority`."""
        return f"{self.scheme}://{self.authority}"

    @cached_property
    def base_url(self) -> str:
        """Return `scheme://authority/prefix`, without a slash at the end."""
        return f"{self.origin}{self.prefix}"

    def url(self, method: str) -> str:
        """Return the URL that the world may see: `-` stands where the key is."""
        return f"{self.base_url}/bot{self.bot_id}/-/{method}"

    def target(self, method: str, query: str = "") -> Target:
        """Return the path that goes onto the wire, key included."""
        return Target(
            b"%b%b?%b" % (self._way, method.encode(), query.encode()) if query else self._way + method.encode()
        )

    @cached_property
    def _way(self) -> Target:
        return Target(f"{self.prefix}/bot{self.bot_id}/{quote(self.api_key.reveal(), safe='')}/".encode())

    @cached_property
    def scrubber(self) -> Scrubber:
        """Return what takes the key out of an answer, should the service have echoed it."""
        return self.scrubber_with({})

    def scrubber_with(self, masks: Mapping[str, str]) -> Scrubber:
        """Return a scrubber that knows more secrets than the key, each with its mask."""
        key = self.api_key.reveal()
        alone = {key: "***"} if len(key) >= _LONG_ENOUGH_TO_BE_UNIQUE else {}
        return Scrubber({f"bot{self.bot_id}/{key}": f"bot{self.bot_id}/-", **alone, **masks})


class Hold(Protocol):
    """A claim on what a call is about, such as a row of a ledger: it is held only while a request may be on the wire.

    A call that has one takes it right before each request, and lets go of it before it waits for anything else.
    """

    async def take(self) -> None:
        """Make sure that the claim is held. Whatever this raises ends the call, and the request is not sent."""
        ...

    async def release(self, why: str, error: CallError | None = None) -> None:
        """Let go of the claim if it is held: the call waits, and what was sent so far did nothing."""
        ...


@mutable
class Progress:
    """What is known of one call while it runs. Times are seconds on the event loop's clock.

    `attempts` counts requests handed to the transport. `begun` is its testimony on the present one: it began to write
    our headers (believed True of a transport that does not say). `unsettled`: the service may have acted on some
    attempt. `out_of_time`: the next attempt would come after the deadline. `closed`: the Session was closed meanwhile.
    `hold` is what the call must hold while it is sent.
    """

    started: float
    deadline: float
    attempts: int = 0
    begun: bool = False
    unsettled: bool = False
    out_of_time: bool = False
    closed: bool = False
    hold: Hold | None = None


@frozen
class Request:
    """One attempt at a call, as the chain of middleware sees it. `attrs.evolve` makes a changed copy."""

    method: str
    verb: Verb
    params: Params
    safety: Safety
    account: Account
    timeouts: Timeouts
    progress: Progress = field(eq=False, repr=False)
    headers: Headers = STANDARD_HEADERS

    @property
    def url(self) -> str:
        """Return the URL without the key and without parameters; it serves as a template for logs and spans."""
        return self.account.url(self.method)

    @property
    def reply_limit(self) -> int:
        """Return how many bytes of the reply's body are read."""
        return reply_limit(self.method, safe=self.safety is Safety.SAFE)

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, from 1."""
        return self.progress.attempts

    def encode(self) -> tuple[Target, Headers, bytes]:
        """Return target, headers and body for the wire; UsageError if a middleware added a broken header."""
        if self.headers is not STANDARD_HEADERS:
            _check(self.headers)
        if self.verb != "POST":
            query = urlencode(self.params) if self.params else ""
            return self.account.target(self.method, query), self.headers, b""
        body_format = self.account.body_format
        headers = _with_content_type(self.headers, body_format)
        text = json.dumps(dict(self.params)) if body_format == "json" else urlencode(self.params)
        return self.account.target(self.method), headers, text.encode()


@frozen
class Response:
    """A whole answer: status, headers and decoded body, scrubbed of the key.

    `truncated` says that the body was longer than what is read of it and is only its beginning; `flaw` what else is
    wrong with it: a compression that is cut short or cannot be undone, say. `parsed` is a body with its envelope, for
    one that takes long to read; it holds as long as the body stays the same.
    """

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    truncated: bool = False
    flaw: str | None = None
    parsed: tuple[bytes, Envelope | NoEnvelope] | None = field(default=None, eq=False, repr=False)

    @cached_property
    def envelope(self) -> Envelope | NoEnvelope:
        """Return what the body says, read once."""
        if self.parsed is not None and self.parsed[0] is self.body:
            return self.parsed[1]
        return self.read_with(parse)

    def read_with(self, read: Callable[[bytes], Envelope | NoEnvelope]) -> Envelope | NoEnvelope:
        """Return what `read` makes of a whole body; a flaw counts where there is no envelope."""
        if self.truncated:
            return NoEnvelope("the body is too large")
        envelope = read(self.body)
        return NoEnvelope(self.flaw) if self.flaw and isinstance(envelope, NoEnvelope) else envelope
