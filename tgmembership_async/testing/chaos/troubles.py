"""Network faults: rules that select connections and requests of a `ChaosProxy`, and say which fault they get.

| kind         | effect                                                          | when                          |
| ------------ | --------------------------------------------------------------- | ----------------------------- |
| `latency`    | the connection pauses for `seconds`                             | request, connect, sent, reply |
| `reset`      | the connection is reset (RST)                                   | request, connect, sent, reply |
| `fin`        | the connection is closed (FIN) without a reply                  | request, connect, sent, reply |
| `black_hole` | everything is read and nothing is sent                          | connect, request, sent, reply |
| `stall`      | the connection is accepted and nothing is read                  | connect                       |
| `half_close` | the client gets FIN at once, and the upstream gets the request  | request                       |
| `cut`        | the connection is closed (FIN) after `size` bytes of the reply  | reply                         |
| `dribble`    | the reply is sent byte by byte, with `seconds` between two      | reply                         |

`connect`: the connection was accepted, and nothing was read, not even a TLS handshake. `request`: a whole request was
read, and nothing of it was sent to the upstream. `sent`: the upstream has the whole request. `reply`: the upstream has
replied, and nothing of the reply was sent to the client.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from attrs import Factory, field, frozen

from tgmembership_async.errors import UsageError

Kind = Literal["latency", "reset", "fin", "black_hole", "stall", "half_close", "cut", "dribble"]
Point = Literal["connect", "request", "sent", "reply"]

POINTS: Final[tuple[Point, ...]] = get_args(Point)
_ANY: Final[tuple[Point, ...]] = ("request", "connect", "sent", "reply")
WHEN: Final[Mapping[str, tuple[Point, ...]]] = {
    "latency": _ANY,
    "reset": _ANY,
    "fin": _ANY,
    "black_hole": POINTS,
    "stall": ("connect",),
    "half_close": ("request",),
    "cut": ("reply",),
    "dribble": ("reply",),
}
_TAKES_SECONDS: Final = frozenset({"latency", "dribble"})
_HARMLESS: Final = frozenset({"latency", "dribble"})


def _default_when(trouble: "Trouble") -> Point:
    return WHEN.get(trouble.kind, _ANY)[0]


@frozen
class Trouble:
    """A rule: after `skip` matches, each match gets the fault with `probability`, at most `count` times.

    At `connect` the rule is drawn for each connection, at other points for each request. `method` is compared without
    regard to case; None matches every method. `seconds` is for `latency` and `dribble`, `size` for `cut`. Without
    `seed` the rule uses the seed of its proxy. Raises UsageError for values that do not fit together.
    """

    kind: Kind
    when: Point = field(default=Factory(_default_when, takes_self=True), kw_only=True)
    method: str | None = field(default=None, kw_only=True)
    probability: float = field(default=1.0, kw_only=True)
    count: int | None = field(default=None, kw_only=True)
    skip: int = field(default=0, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)
    size: int = field(default=0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        wrong = next((text for text, holds in _rules(self) if not holds), None)
        if wrong is not None:
            msg = f"Trouble({self.kind!r}): {wrong}"
            raise UsageError(msg)

    @property
    def label(self) -> str:
        """Return a short name for tables, for example `reset at sent`."""
        return f"{self.kind} at {self.when}"

    def destroys(self, reply: bytes | bytearray) -> bool:
        """Tell whether the upstream gets the request, but the client does not get the whole `reply`."""
        if self.kind == "cut":
            return self.size < len(reply)
        return self.kind == "half_close" or (self.when in ("sent", "reply") and self.kind not in _HARMLESS)


def _rules(trouble: Trouble) -> Iterable[tuple[str, bool]]:
    allowed = WHEN.get(trouble.kind, ())
    yield f"the kinds are {', '.join(sorted(WHEN))}", bool(allowed)
    yield f"when is one of {', '.join(allowed)}", trouble.when in allowed
    yield "method must be None when when is 'connect'", trouble.method is None or trouble.when != "connect"
    yield "probability is a number from 0 to 1", 0 <= trouble.probability <= 1
    yield "count is None or an int of at least 1", trouble.count is None or trouble.count >= 1
    yield "skip is an int of at least 0", trouble.skip >= 0
    yield (
        "seconds must be above 0 for latency and dribble, and 0 for other kinds",
        (trouble.seconds > 0) is (trouble.kind in _TAKES_SECONDS),
    )
    yield (
        "size must be at least 0 for cut, and 0 for other kinds",
        trouble.size == 0 or (trouble.kind == "cut" and trouble.size > 0),
    )


@frozen
class Incident:
    """A fault that a proxy injected. `connection` and `request` are numbers from 1; `request` counts per connection.

    `request` is 0 before the first request. `reply_destroyed`: the request reached the upstream, and the client did not
    get the whole reply.
    """

    connection: int
    request: int
    method: str
    trouble: Trouble
    reply_destroyed: bool
