"""Find the signature and the nonce in the headers of a delivery. No I/O.

The *names* of the headers are not documented. Unless the names are pinned, the signature is recognised by the format of
its value, and the nonce by its name or by trying values. Trying is safe: a chosen nonce does not help to forge the MAC.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from attrs import field, frozen

from tgmembership_async.errors import UsageError

HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
Pair = tuple[str, str]

MOST_TRIED: Final = 4
NO_NONCE: Final[Pair] = ("", "")
_LONGEST_SIGNATURE: Final = 512
# Eleven digits of seconds are the years until 5138, and every datetime can hold them.
_PLAIN: Final = re.compile(r"(?:v1=([0-9A-Fa-f]+),)?t=([0-9]{1,11})(?:,v1=([0-9A-Fa-f]+))?")
_MAC_DIGITS: Final = (64, 128)
_NONCE: Final = re.compile(r"[!-\-/-~]{1,128}")  # printable ASCII without a dot: the dot separates the signed parts
_LIKE_A_NONCE: Final = (re.compile(r"[0-9A-Fa-f-]{8,64}"), re.compile(r"(?=.*[0-9])[A-Za-z0-9_-]{6,64}"))
_NEVER_A_NONCE: Final = re.compile(
    r"accept.*|content-.*|sec-.*|x-forwarded-.*|cf-.*|forwarded|host|user-agent|connection|keep-alive|date|via|origin"
    r"|referer|cookie|authorization|cache-control|pragma|expect|te|trailer|transfer-encoding|upgrade.*|priority|dnt"
)


@frozen
class Claim:
    """The content of a signature header: the time in unix seconds, as its digits, and the MAC in lower-case hex.

    A MAC of 32 bytes is that of the later generation, which signs without a nonce.
    """

    header: str
    seconds: str
    mac: str = field(repr=False)

    @property
    def has_nonce(self) -> bool:
        """Tell whether a nonce is part of what was signed."""
        return len(self.mac) > _MAC_DIGITS[0]


def flat(headers: HeadersLike, only: Collection[str] | None = None) -> list[Pair]:
    """Return headers as pairs of lower-case name and value, all of them or those in `only`.

    Values that are neither str nor bytes become "". Raises UsageError if `headers` are not pairs.
    """
    items: Any = getattr(headers, "items", None)  # five times faster than isinstance(headers, Mapping)
    try:
        return _flat(cast("Any", headers) if items is None else items(), only)
    except (TypeError, ValueError):
        pass
    msg = "headers must be a mapping, or pairs of name and value"
    raise UsageError(msg)


def _flat(pairs: Iterable[tuple[Any, Any]], only: Collection[str] | None) -> list[Pair]:
    found: list[Pair] = []
    for name, value in pairs:
        lowered = name.lower() if isinstance(name, str) else _decoded(name).lower()
        if only is None or lowered in only:
            found.append((lowered, (value if isinstance(value, str) else _decoded(value)).strip(" \t")))
    return found


def _decoded(text: object) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else ""


def claims(pairs: Sequence[Pair], pinned: str | None) -> list[Claim]:
    """Return every signature in the pinned header, or in any header."""
    named = (pair for pair in pairs if pinned in (None, pair[0]))
    return [claim for name, value in named if (claim := claim_in(name, value)) is not None]


def claim_in(name: str, value: str) -> Claim | None:
    """Parse `t=<seconds>,v1=<hex>` in any order, or return None. Other keys are allowed; `t` and `v1` occur once."""
    plain = _PLAIN.fullmatch(value)
    before, seconds, after = plain.groups() if plain is not None else _among_others(value)
    mac = before or after or ""
    if len(mac) not in _MAC_DIGITS or (before and after):
        return None
    return Claim(name, seconds, mac.lower())


def _among_others(value: str) -> tuple[str | None, str, str | None]:
    """Return the values of `t` and `v1` among other keys, if each is there once."""
    items = [item.strip(" \t").partition("=") for item in value.split(",")] if len(value) <= _LONGEST_SIGNATURE else []
    [seconds, mac] = ([text for key, _, text in items if key == wanted] for wanted in ("t", "v1"))
    if len(seconds) == len(mac) == 1 and (plain := _PLAIN.fullmatch(f"t={seconds[0]},v1={mac[0]}")) is not None:
        return None, plain[2], plain[3]
    return None, "", None


def is_nonce(value: str) -> bool:
    """Tell whether a value can be a nonce: 1 to 128 characters of printable ASCII without a dot."""
    return _NONCE.fullmatch(value) is not None


def nonces(pairs: Sequence[Pair], claim: Claim, pinned: str | None) -> list[Pair]:
    """Return the headers that may hold the nonce, most likely first, at most four."""
    if not claim.has_nonce:
        return [NO_NONCE]
    named = [
        pair for pair in pairs if (pair[0] == pinned if pinned else "nonce" in pair[0] and pair[0] != claim.header)
    ]
    if named or pinned:
        return [pair for pair in named if is_nonce(pair[1])][:MOST_TRIED]
    others = (
        pair
        for pair in pairs
        if pair[0] != claim.header and is_nonce(pair[1]) and not _NEVER_A_NONCE.fullmatch(pair[0])
    )
    return sorted(others, key=_rank)[:MOST_TRIED]


def _rank(pair: Pair) -> int:
    shapes = enumerate(_LIKE_A_NONCE)
    return next((rank for rank, shape in shapes if shape.fullmatch(pair[1])), len(_LIKE_A_NONCE))
