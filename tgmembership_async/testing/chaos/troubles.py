"""Troubles on the way: rules that say which connections and requests of a `ChaosProxy` go wrong, where, and how.

| kind         | what the client meets                                              | when                          |
| ------------ | ------------------------------------------------------------------ | ----------------------------- |
| `latency`    | it goes on `seconds` later                                         | request, connect, sent, reply |
| `reset`      | the connection is torn down (RST)                                  | request, connect, sent, reply |
| `fin`        | the connection ends (FIN) without an answer                        | request, connect, sent, reply |
| `black_hole` | everything is read and nothing is ever answered                    | connect, request, sent, reply |
| `stall`      | the connection is accepted and nothing is ever read from it        | connect                       |
| `half_close` | FIN comes at once, and yet its request goes upstream and is obeyed | request                       |
| `cut`        | the reply ends (FIN) after `size` bytes                            | reply                         |
| `dribble`    | the reply comes byte by byte, `seconds` between two of them        | reply                         |

`connect`: the connection was accepted; nothing was read yet, and with TLS in front no handshake begun. `request`: a
whole request was read, and the upstream has seen nothing of it. `sent`: the upstream has the whole request. `reply`: it
has answered, and nothing of that was passed on.
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


def _usual_when(trouble: "Trouble") -> Point:
    return WHEN.get(trouble.kind, _ANY)[0]


@frozen
class Trouble:
    """A rule: what matches goes wrong, each with `probability`, `count` of them at most, after `skip` were spared.

    At `connect` it is drawn for each connection, elsewhere for each request; `method` is matched in any case, None
    matches all. `seconds` belong to `latency` and `dribble`, `size` to `cut`. Without `seed` the rule draws from the
    seed of its proxy.
    """

    kind: Kind
    when: Point = field(default=Factory(_usual_when, takes_self=True), kw_only=True)
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
        """Return a short name for tables: `reset at sent`, say."""
        return f"{self.kind} at {self.when}"

    def destroys(self, reply: bytes | bytearray) -> bool:
        """Say whether the upstream has, or will have, the request and yet no client sees its whole `reply`."""
        if self.kind == "cut":
            return self.size < len(reply)
        return self.kind == "half_close" or (self.when in ("sent", "reply") and self.kind not in _HARMLESS)


def _rules(trouble: Trouble) -> Iterable[tuple[str, bool]]:
    allowed = WHEN.get(trouble.kind, ())
    yield f"the kinds are {', '.join(sorted(WHEN))}", bool(allowed)
    yield f"when is one of {', '.join(allowed)}", trouble.when in allowed
    yield "at 'connect' no method is known yet", trouble.method is None or trouble.when != "connect"
    yield "probability is a number from 0 to 1", 0 <= trouble.probability <= 1
    yield "count is None or an int of at least 1", trouble.count is None or trouble.count >= 1
    yield "skip is an int of at least 0", trouble.skip >= 0
    yield (
        "seconds, more than 0, belong to latency and dribble",
        (trouble.seconds > 0) is (trouble.kind in _TAKES_SECONDS),
    )
    yield "size, 0 or more, belongs to cut", trouble.size == 0 or (trouble.kind == "cut" and trouble.size > 0)


@frozen
class Incident:
    """What was done to which connection: its number from 1, and the number and method of the request on it.

    `request` is 0 before there is one. `reply_destroyed`: the request went upstream, and no client saw a whole reply.
    """

    connection: int
    request: int
    method: str
    trouble: Trouble
    reply_destroyed: bool
