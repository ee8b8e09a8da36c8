"""Faults of the fake service: rules that select requests, and say which fault they get.

| kind        | what the client receives                            | when                          |
| ----------- | --------------------------------------------------- | ----------------------------- |
| `latency`   | the response, `seconds` later                       | before or after the effect    |
| `throttled` | 429, 421, 425 or 503, with or without Retry-After   | before: nothing was done      |
| `error`     | 500 or another error in an envelope                 | before or after the effect    |
| `html`      | an HTML page, as a gateway sends it                 | before or after the effect    |
| `damaged`   | a body that is not JSON                             | after, or before (of a 500)   |
| `cut`       | a body that is shorter than its Content-Length      | after, or before (of a 500)   |
| `closed`    | no response; the connection is closed (FIN)         | before or after the effect    |
| `reset`     | no response; the connection is reset (RST)          | before or after the effect    |
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from attrs import Factory, field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.testing.rules import Rulebook

Kind = Literal["latency", "throttled", "error", "html", "damaged", "cut", "closed", "reset"]
When = Literal["before", "after"]

_STATUS: Final[Mapping[str, int]] = {"throttled": 429, "error": 500, "html": 502}
_WHEN: Final[Mapping[str, When]] = {"damaged": "after", "cut": "after"}
_KINDS: Final = frozenset(get_args(Kind))
_TURNING_AWAY: Final = frozenset({421, 425, 429})
_IN_AN_ENVELOPE: Final = frozenset({"throttled", "error"})
_UNAVAILABLE: Final = 503
"""Means "nothing was done" only in the service's own envelope, not in a gateway's page."""
_ERROR_STATUSES: Final = range(400, 600)
_REFUSALS: Final = range(400, 500)


def _default_when(fault: "Fault") -> When:
    return _WHEN.get(fault.kind, "before")


def _default_status(fault: "Fault") -> int:
    return _STATUS.get(fault.kind, 0)


@frozen
class Fault:
    """A rule: after `skip` matches, each match gets the fault with `probability`, at most `count` times.

    `method` is compared without regard to case; None matches every method. With `when="after"` the request takes effect
    before the fault, with `"before"` it has no effect. `seconds` is for `latency`; `status` for `throttled`, `error`
    and `html`; `retry_after` (seconds, or the text of the header) for `throttled` and `html`. Without `seed` the rule
    uses the seed of its service. Raises UsageError for values that do not fit together.
    """

    kind: Kind
    method: str | None = field(default=None, kw_only=True)
    when: When = field(default=Factory(_default_when, takes_self=True), kw_only=True)
    probability: float = field(default=1.0, kw_only=True)
    count: int | None = field(default=None, kw_only=True)
    skip: int = field(default=0, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)
    status: int = field(default=Factory(_default_status, takes_self=True), kw_only=True)
    retry_after: float | str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        wrong = next((text for text, holds in _rules(self) if not holds), None)
        if wrong is not None:
            msg = f"Fault({self.kind!r}): {wrong}"
            raise UsageError(msg)

    @property
    def turns_away(self) -> bool:
        """Tell whether the response says that nothing was done."""
        enveloped = self.kind in _IN_AN_ENVELOPE
        return self.status in _TURNING_AWAY or (self.status == _UNAVAILABLE and enveloped)

    @property
    def label(self) -> str:
        """Return a short name for tables, for example `error 500 after the effect`."""
        name = f"{self.kind} {self.status}" if self.kind in _STATUS else self.kind
        wait = "" if self.retry_after is None else ", told a wait"
        return f"{name}{wait}" if self.turns_away else f"{name} {self.when} the effect{wait}"


def _rules(fault: Fault) -> Iterable[tuple[str, bool]]:
    yield f"the kinds are {', '.join(sorted(_KINDS))}", fault.kind in _KINDS
    yield "when is 'before' or 'after' the effect", fault.when in ("before", "after")
    yield "probability is a number from 0 to 1", 0 <= fault.probability <= 1
    yield "count is None or an int of at least 1", fault.count is None or fault.count >= 1
    yield "skip is an int of at least 0", fault.skip >= 0
    yield "seconds, more than 0, belong to latency", (fault.seconds > 0) is (fault.kind == "latency")
    yield (
        "a status from 400 to 599 belongs to throttled, error and html",
        (fault.status in _ERROR_STATUSES if fault.kind in _STATUS else fault.status == 0),
    )
    yield "a wait belongs to throttled and html", fault.retry_after is None or fault.kind in ("throttled", "html")
    yield "the status is 429, 421, 425 or 503", fault.turns_away or fault.kind != "throttled"
    yield (
        "an error that refuses (4xx) does not come after the effect",
        not (fault.kind == "error" and fault.when == "after" and fault.status in _REFUSALS),
    )
    yield (
        "an answer that says 'nothing was done' does not come after the effect",
        not (fault.turns_away and fault.when == "after"),
    )


FaultBook = Rulebook[Fault]


def nasty(
    probability: float, *, method: str | None = None, seconds: float = 0.2, wait: float = 0.05
) -> tuple[Fault, ...]:
    """Return rules for every kind of fault, before and after the effect, each with `probability`.

    `seconds` is the latency, `wait` the Retry-After of a 429. Both are in seconds.
    """
    either: tuple[When, ...] = ("before", "after")
    twofold: tuple[Kind, ...] = ("error", "html", "damaged", "cut", "closed", "reset")
    return (
        *(Fault("latency", method=method, when=when, probability=probability, seconds=seconds) for when in either),
        Fault("throttled", method=method, probability=probability, retry_after=wait),
        Fault("throttled", method=method, probability=probability),
        *(Fault(kind, method=method, when=when, probability=probability) for kind in twofold for when in either),
    )
