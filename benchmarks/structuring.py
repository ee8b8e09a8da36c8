"""What 10,000 subscribers cost from bytes to models, next to constructors written by hand and to pydantic.

    python benchmarks/structuring.py [--quick]

Written by hand: `json.loads`, then one slotted attrs constructor per row with every field converted. Pydantic (if it is
installed) validates the bytes. Ours goes through the envelope, takes numbers as strings, and keeps unknown fields.
"""

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from attrs import define

from tgmembership_async.protocol import convert
from tgmembership_async.protocol.envelope import parse

ROWS: Final = 10_000


@define
class ByHand:
    """What somebody in a hurry writes."""

    user_id: int
    plan_id: int
    started_at: datetime
    expires_at: datetime


def body(rows: int) -> bytes:
    """Return a reply with so many subscribers."""
    subscribers = [
        {
            "user_id": 8_000_000_000 + row,
            "plan_id": row % 7 + 1,
            "started_at": f"2026-10-{row % 28 + 1:02}T10:20:30+00:00",
            "expires_at": f"2026-11-{row % 28 + 1:02}T10:20:30+00:00",
        }
        for row in range(rows)
    ]
    return json.dumps({"ok": True, "code": 200, "result": subscribers}).encode()


def by_hand(reply: bytes) -> list[ByHand]:
    """Read the rows with constructors."""
    moment = datetime.fromisoformat
    return [
        ByHand(int(row["user_id"]), int(row["plan_id"]), moment(row["started_at"]), moment(row["expires_at"]))
        for row in json.loads(reply)["result"]
    ]


def ours(reply: bytes) -> object:
    """Read the rows as `get_subscribers` does."""
    envelope: Any = parse(reply)
    return convert.subscribers(envelope.result)


def with_pydantic(reply: bytes) -> Callable[[], object]:
    """Return what reads the rows with pydantic."""
    from pydantic import BaseModel, TypeAdapter  # noqa: PLC0415 - a peer

    class Row(BaseModel):
        user_id: int | None = None
        plan_id: int | None = None
        started_at: datetime | None = None
        expires_at: datetime | None = None

    class Envelope(BaseModel):
        ok: bool
        code: int
        result: list[Row]

    return partial(TypeAdapter(Envelope).validate_json, reply)


def seconds(read: Callable[[], object]) -> float:
    """Return the CPU seconds of one reading."""
    gc.collect()
    start = time.process_time()
    read()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    rounds = 5 if "--quick" in sys.argv else 25
    reply = body(ROWS)
    readers: dict[str, Callable[[], object]] = {
        "json.loads and constructors by hand": partial(by_hand, reply),
        "this package": partial(ours, reply),
    }
    if find_spec("pydantic"):
        readers["pydantic, from bytes"] = with_pydantic(reply)
    assert [row.started_at for row in convert.subscribers(json.loads(reply)["result"])][:1] == [
        datetime(2026, 10, 1, 10, 20, 30, tzinfo=UTC)
    ]
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            taken[name].append(seconds(read))
    print(f"CPython {platform.python_version()}, {ROWS:,} rows\n")
    print("| who | CPU µs per row | ratio |\n| --- | ---: | ---: |")
    first = statistics.median(taken["json.loads and constructors by hand"])
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"| {name} | {1e6 * median / ROWS:.2f} | {median / first:.2f} |")


if __name__ == "__main__":
    main()
