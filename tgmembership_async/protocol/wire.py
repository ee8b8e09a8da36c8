"""Request, Response, Headers and related types. None of their public fields contains the API key."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Final, Literal, Protocol, cast
from urllib.parse import quote, urlencode

from attrs import field, frozen, mutable

from tgmembership_async.errors import CallError, UsageError
from tgmembership_async.protocol.envelope import LEGACY, Dialect, Envelope, NoEnvelope, parse
from tgmembership_async.protocol.reply_limits import reply_limit
from tgmembership_async.values.learned_secrets import Learned
from tgmembership_async.values.scrubber import Scrubber
from tgmembership_async.values.secret import Secret, Target
from tgmembership_async.version import __version__

BodyFormat = Literal["json", "form"]
Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Gateway503 = Literal["unknown", "turned away"]
Params = Mapping[str, Any]
"""The parameters of a call: str and int, and in a body of API v2 any JSON value."""
_WITHOUT_BODY: Final = frozenset({"GET", "DELETE"})

# A shorter key may occur in a reply by chance; it is masked only after `bot<ID>/`.
_LONG_ENOUGH_TO_BE_UNIQUE: Final = 12


class Safety(StrEnum):
    """The safety of repeating a call."""

    SAFE = "safe"
    """The call changes nothing."""
    IDEMPOTENT = "idempotent"
    """Two calls have the same effect as one."""
    UNSAFE = "unsafe"
    """Each call has an effect; it is never repeated if the service may have acted."""


def _pairs(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(items)


@frozen(cache_hash=True)
class Headers:
    """HTTP header fields in order; names are case-insensitive."""

    items: tuple[tuple[str, str], ...] = field(default=(), converter=_pairs)

    @classmethod
    def of(cls, source: "Headers | Mapping[str, str] | Iterable[tuple[str, str]]") -> "Headers":
        """Return Headers made from a mapping or from pairs."""
        if isinstance(source, Headers):
            return source
        return cls(cast("Mapping[str, str]", source).items() if isinstance(source, Mapping) else source)

    def get(self, name: str) -> str | None:
        """Return the first value under `name`, or None."""
        wanted = name.lower()
        for key, value in self.items:  # a generator takes twice as long, and three are asked for in each call
            if key.lower() == wanted:
                return value
        return None

    def with_(self, name: str, value: str) -> "Headers":
        """Return a copy with `value` as the only value of `name`."""
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
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})
"""Duplicate framing headers allow request smuggling: two servers may read one request as two."""
_CONTENT_TYPE: Final[Mapping[BodyFormat, str]] = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
}


@lru_cache(maxsize=64)
def _with_content_type(headers: Headers, body_format: BodyFormat) -> Headers:
    return headers.with_("content-type", _CONTENT_TYPE[body_format])


def with_host(headers: Headers, authority: str) -> Headers:
    """Return headers that begin with `host`: its value in `headers`, or else the URL's `authority`."""
    others = ((name, value) for name, value in headers if name.lower() != "host")
    return Headers((("host", headers.get("host") or authority), *others))


def _check(headers: Headers) -> None:
    for name, value in cast("Iterable[tuple[object, object]]", headers):
        if not (isinstance(name, str) and isinstance(value, str)):
            msg = f"a middleware added a header that is not text: {name!r:.80}"
            raise UsageError(msg)
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            msg = f"a middleware added a header with an invalid name or value, under the name {name!r:.80}"
            raise UsageError(msg)
        if name.lower() in _FRAMING:
            msg = f"a middleware added the header {name}, which only the Session may set: remove it"
            raise UsageError(msg)


@frozen(cache_hash=True)
class Timeouts:
    """Timeouts of one attempt in seconds: to connect, between reads or writes, and in total (None: no limit)."""

    connect: float
    read: float
    exchange: float | None = None


@frozen
class Account:
    """Base URL, credentials and protocol options of one customer of the service. Its repr does not show credentials."""

    client: ClassVar[str]
    """The name of the class that calls for this account."""

    scheme: str
    host: str
    port: int | None
    prefix: str
    body_format: BodyFormat = field(default="json", kw_only=True)
    gateway_503: Gateway503 = field(default="unknown", kw_only=True)
    dialect: Dialect = field(default=LEGACY, kw_only=True, repr=False)

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

    @property
    def number(self) -> int:
        """Return a positive number of up to 64 bits that identifies the account, for a shared gate."""
        raise NotImplementedError

    @property
    def url_template(self) -> str:
        """Return the path above methods, with names in place of credentials and ids, for metrics."""
        raise NotImplementedError

    @cached_property
    def secret_fields(self) -> tuple[tuple[bytes, Target], ...]:
        """Return the header fields with credentials. A transport adds them to those of `Request.encode`, on the wire
        only: libraries, agents and logs above must not see them.
        """  # noqa: D205 - the second half must not be overlooked
        return ()

    def url(self, path: str) -> str:
        """Return the URL for logs and errors, without credentials."""
        raise NotImplementedError

    def target(self, path: str, query: str = "") -> Target:
        """Return the path for the wire, with credentials."""
        return Target(b"%b%b?%b" % (self._path, path.encode(), query.encode()) if query else self._path + path.encode())

    @cached_property
    def _path(self) -> Target:
        raise NotImplementedError

    @property
    def _masks(self) -> Mapping[str, str]:
        raise NotImplementedError

    @cached_property
    def scrubber(self) -> Scrubber:
        """Return the scrubber that masks the credentials in replies that echo them."""
        return self.scrubber_with({})

    @cached_property
    def learned(self) -> Learned:
        """Return the secrets that replies contained; errors and logs do not show them."""
        return Learned()

    def scrubber_with(self, masks: Mapping[str, str]) -> Scrubber:
        """Return a scrubber for the credentials and further secrets, each with its mask."""
        return Scrubber({**self._masks, **masks})


@frozen
class BotAccount(Account):
    """One bot's account on the old platform. `generation` is the generation of the API; v1 has a path of its own."""

    client: ClassVar[str] = "Session"

    bot_id: int
    api_key: Secret

    @property
    def number(self) -> int:
        """Return the bot's id."""
        return self.bot_id

    @property
    def url_template(self) -> str:
        """Return the path above methods, with names in place of bot id and API key."""
        return f"{self.prefix}/bot{{bot_id}}/{{api_key}}"

    def url(self, path: str) -> str:
        """Return the URL for logs and errors, with `-` in place of the API key."""
        return f"{self.base_url}/bot{self.bot_id}/-/{path}"

    @cached_property
    def _path(self) -> Target:
        return Target(f"{self.prefix}/bot{self.bot_id}/{quote(self.api_key.reveal(), safe='')}/".encode())

    @property
    def _masks(self) -> Mapping[str, str]:
        key = self.api_key.reveal()
        alone = {key: "***"} if len(key) >= _LONG_ENOUGH_TO_BE_UNIQUE else {}
        return {f"bot{self.bot_id}/{key}": f"bot{self.bot_id}/-", **alone}


class Hold(Protocol):
    """A claim that a call holds while a request may be on the wire, such as the claim on a row of a ledger.

    The call takes it right before each request, and releases it before it waits for anything else.
    """

    async def take(self) -> None:
        """Acquire the claim, unless it is held. Any exception ends the call, and the request is not sent."""
        ...

    async def release(self, why: str, error: CallError | None = None) -> None:
        """Release the claim if it is held: the call waits, and its attempts so far had no effect."""
        ...


@mutable
class Progress:
    """The mutable state of one call. Times are seconds on the event loop's clock.

    `attempts` counts requests passed to the transport. `begun`: on the current attempt the transport began to write our
    headers (True for a transport that does not set it). `in_flight`: an attempt is running. `unsettled`: the service
    may have acted on some attempt; `repeats`: on an attempt before the current one. `out_of_time`: the next attempt
    would begin after the deadline. `closed`: the Session was closed during the call, and no further attempt begins.
    `hold` is the claim that is held during each exchange. `done` is the response that was judged as a success.
    `cancellations` counts those of the task before the call.
    """

    started: float
    deadline: float
    attempts: int = 0
    begun: bool = False
    in_flight: bool = False
    unsettled: bool = False
    repeats: bool = False
    out_of_time: bool = False
    closed: bool = False
    hold: Hold | None = None
    done: "Response | None" = None
    cancellations: int = 0


@frozen
class Request:
    """A request as middleware sees it. Use `attrs.evolve` for a changed copy.

    `path` is the path of the method if it contains ids, so that it differs from `method`.
    """

    method: str
    verb: Verb
    params: Params
    safety: Safety
    account: Account
    timeouts: Timeouts
    progress: Progress = field(eq=False, repr=False)
    headers: Headers = STANDARD_HEADERS
    path: str | None = None

    @property
    def url(self) -> str:
        """Return the URL without credentials and parameters, for logs and spans."""
        return self.account.url(self.path or self.method)

    @property
    def reply_limit(self) -> int:
        """Return the maximum size of the reply's body in bytes."""
        return reply_limit(self.method, safe=self.safety is Safety.SAFE)

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, from 1."""
        return self.progress.attempts

    def encode(self) -> tuple[Target, Headers, bytes]:
        """Return target, headers and body for the wire; raise UsageError if a middleware added an invalid header."""
        if self.headers is not STANDARD_HEADERS:
            _check(self.headers)
        path = self.path or self.method
        if self.verb in _WITHOUT_BODY:
            query = urlencode(self.params) if self.params else ""
            return self.account.target(path, query), self.headers, b""
        body_format = self.account.body_format
        headers = _with_content_type(self.headers, body_format)
        text = json.dumps(dict(self.params)) if body_format == "json" else urlencode(self.params)
        return self.account.target(path), headers, text.encode()


@frozen
class Response:
    """A complete response: status, headers and decoded body, with the API key scrubbed.

    `truncated`: the body exceeded the maximum size, and `body` is its beginning. `flaw` is another problem with the
    body, such as incomplete compressed data. `parsed` is a large body with its envelope, parsed in advance; it is
    ignored once `body` is another object. `dialect` is how the body is read.
    """

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    truncated: bool = False
    flaw: str | None = None
    parsed: tuple[bytes, Envelope | NoEnvelope] | None = field(default=None, eq=False, repr=False)
    dialect: Dialect = field(default=LEGACY, eq=False, repr=False)
    _envelope: Envelope | NoEnvelope | None = field(default=None, init=False, eq=False, repr=False)

    @property
    def envelope(self) -> Envelope | NoEnvelope:
        """Return the envelope of the body; it is parsed once."""
        envelope = self._envelope
        if envelope is None:
            if self.parsed is not None and self.parsed[0] is self.body:
                envelope = self.parsed[1]
            else:
                envelope = self.read_with(parse if self.dialect is LEGACY else partial(parse, dialect=self.dialect))
            object.__setattr__(self, "_envelope", envelope)  # a cached_property with slots takes twice as long
        return envelope

    def read_with(self, read: Callable[[bytes], Envelope | NoEnvelope]) -> Envelope | NoEnvelope:
        """Return the envelope that `read` parses; for a truncated or flawed body without one, return that reason."""
        if self.truncated:
            return NoEnvelope("the body is too large")
        envelope = read(self.body)
        return NoEnvelope(self.flaw) if self.flaw and isinstance(envelope, NoEnvelope) else envelope
