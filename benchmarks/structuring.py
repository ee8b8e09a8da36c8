"""Measure the conversion of 10,000 subscribers from bytes to models, compared to hand-written code and its peers.

    python benchmarks/structuring.py [--quick] [--json FILE]

The hand-written code is `json.loads`, then one slotted attrs constructor per row with every field converted. Pydantic
and msgspec, if installed, validate the bytes. This package parses the envelope, accepts numbers in strings, and keeps
unknown fields, which the others drop. Nothing is cached between rows, so repeated times cost as much as distinct ones.
The last table is the cost per plan of replies with one and with a hundred plans, compared to `json.loads` alone.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import tables
from attrs import define
from server import PLANS

from tgmembership_async.protocol.envelope import parse
from tgmembership_async.protocol.structuring import results

ROWS: Final = 10_000
FIRST: Final = datetime(2026, 10, 1, 10, 20, 30, tzinfo=UTC)
BY_HAND: Final = "json.loads and constructors by hand"

Row = dict[str, Any]


@define
class ByHand:
    """A subscriber, as a hand-written class."""

    user_id: int
    plan_id: int
    started_at: datetime
    expires_at: datetime


def subscriber(row: int) -> Row:
    """Return a row as the service may send it; its start is one of 28 times."""
    started_at = FIRST + timedelta(row % 28)
    return {
        "user_id": 8_000_000_000 + row,
        "plan_id": row % 7 + 1,
        "started_at": started_at.isoformat(),
        "expires_at": (started_at + timedelta(31)).isoformat(),
    }


def in_strings(row: int) -> Row:
    """Return a row whose numbers are strings."""
    return {key: str(value) for key, value in subscriber(row).items()}


def at_its_own_time(row: int) -> Row:
    """Return a row with times that no other row has."""
    started_at = FIRST + timedelta(seconds=row)
    times = {"started_at": started_at, "expires_at": started_at + timedelta(31)}
    return subscriber(row) | {key: when.isoformat() for key, when in times.items()}


def with_a_name(row: int) -> Row:
    """Return a row with two fields that are unknown to the model."""
    return subscriber(row) | {"username": f"user{row}", "orders": 3}


def body(rows: list[Row]) -> bytes:
    """Return a reply with these rows."""
    return json.dumps({"ok": True, "code": 200, "result": rows}).encode()


def by_hand(reply: bytes) -> list[ByHand]:
    """Read the rows with constructors."""
    moment = datetime.fromisoformat
    return [
        ByHand(int(row["user_id"]), int(row["plan_id"]), moment(row["started_at"]), moment(row["expires_at"]))
        for row in json.loads(reply)["result"]
    ]


def ours(reply: bytes, read: Callable[[Any], list[Any]] = results.subscribers) -> list[Any]:
    """Read the rows as `get_subscribers` does."""
    envelope: Any = parse(reply)
    return read(envelope.result)


def with_pydantic() -> Callable[[bytes], object]:
    """Return a function that reads the rows with pydantic."""
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

    return TypeAdapter(Envelope).validate_json


def with_msgspec() -> Callable[[bytes], object]:
    """Return a function that reads the rows with msgspec, which also accepts numbers in strings."""
    import msgspec  # noqa: PLC0415 - a peer

    class Row(msgspec.Struct):
        user_id: int | None = None
        plan_id: int | None = None
        started_at: datetime | None = None
        expires_at: datetime | None = None

    class Envelope(msgspec.Struct):
        ok: bool
        code: int
        result: list[Row]

    return msgspec.json.Decoder(Envelope, strict=False).decode


def seconds(read: Callable[[], object], times: int = 1) -> float:
    """Return the CPU seconds of one call."""
    gc.collect()
    start = time.process_time()
    for _ in range(times):
        read()
    return (time.process_time() - start) / times


def many(rounds: int) -> list[tables.Row]:
    """Return the cost of each kind of reply for each reader, measured in interleaved rounds."""
    readers: dict[str, Callable[[bytes], object]] = {BY_HAND: by_hand, "this package": ours}
    if find_spec("pydantic"):
        readers["pydantic, from bytes"] = with_pydantic()
    if find_spec("msgspec"):
        readers["msgspec, from bytes"] = with_msgspec()
    replies = {
        "numbers as numbers": subscriber,
        "all values as strings": in_strings,
        "no time twice": at_its_own_time,
        "two unknown fields": with_a_name,
    }
    rows: list[tables.Row] = []
    for title, row in replies.items():
        reply = body([row(number) for number in range(ROWS)])
        assert [found.started_at for found in ours(reply)][:1] == [FIRST]
        taken: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                taken[name].append(seconds(partial(read, reply)))
        for name, times in taken.items():
            ratio = statistics.median(one / other for one, other in zip(times, taken[BY_HAND], strict=True))
            cost = round(1e6 * statistics.median(times) / ROWS, 2)
            rows.append({"reply": title, "who": name, "CPU µs per row": cost, "ratio": round(ratio, 3)})
    return rows


def few(rounds: int) -> list[tables.Row]:
    """Return the CPU of replies with one plan and with a hundred, in µs per plan."""
    rows: list[tables.Row] = []
    for plans in (1, 100):
        reply = body(PLANS * plans)
        taken = [
            (
                seconds(partial(json.loads, reply), 2_000 // plans),
                seconds(partial(ours, reply, results.plans), 2_000 // plans),
            )
            for _ in range(rounds)
        ]
        decoding, reading = (1e6 * statistics.median(times) / plans for times in zip(*taken, strict=True))
        rows.append({"plans in the reply": plans, "json.loads": round(decoding, 2), "this package": round(reading, 2)})
    return rows


def main() -> None:
    """Print the tables."""
    rounds = 5 if "--quick" in sys.argv else 25
    tables.publish(
        {f"read {ROWS:,} subscribers": many(rounds), "read plans, CPU µs per plan": few(rounds)}, "pydantic", "msgspec"
    )


if __name__ == "__main__":
    main()
