"""Measure `Verifier.verify` and a whole delivery, compared to stripe, svix and standardwebhooks in interleaved rounds.

    python benchmarks/webhook.py [--quick] [--json FILE]

Bodies are 1 KiB of bytes and headers a mapping, as frameworks pass them. Every peer is called as its documentation
says, with an object created once. The figures are medians of CPU time per verification. The service's documented scheme
uses SHA-512, which alone takes longer than the SHA-256 of the peers; the row of its later API generation, with SHA-256,
is comparable. svix and standardwebhooks also parse the body; stripe's verifier and this package's do not.

A whole delivery is `Receiver.handle` with a SqliteInbox: 64 different deliveries at a time are verified, parsed and
stored durably in groups. Its figure is the CPU of all threads, of which the event loop's own stands in a column; the
rest is the thread that writes the file, in the working directory. Next to it, bare sqlite3 inserts such rows into the
same tables in the same groups, with the same durability.
"""

import asyncio
import base64
import gc
import hashlib
import hmac
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

import tables
from attrs import frozen

from tgmembership_async.webhooks import Receiver, SqliteInbox, Verifier, sign
from tgmembership_async.webhooks.events import read_event
from tgmembership_async.webhooks.inboxes.sqlite import INBOX

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
EVENT = {"event": "order_completed", "debug_id": "dbg_1", "data": {"order_id": "17", "user_id": "42", "note": ""}}
BODY = json.dumps(EVENT | {"data": {**EVENT["data"], "note": "x" * (1024 - len(json.dumps(EVENT)))}}).encode()  # type: ignore[dict-item]
Verify = Callable[[], object]
GROUP, BATCH = 64, 2_048
ROUNDS, TIMES = (5, 2_000) if "--quick" in sys.argv else (25, 5_000)


@frozen
class Row:
    """A verification to measure; `compared` ones count for the fastest. One call of `verify` makes `each` of them."""

    name: str
    verify: Verify
    compared: bool = True
    each: int = 1


def ours(*, later_generation: bool = False, read: bool = False) -> Verify:
    """Return a verification by this package."""
    headers = sign(SECRET, BODY, nonce=None if later_generation else "65f0c0ffee123", timestamp=time.time())
    verify = Verifier(SECRET, tolerance=3600).verify
    if not read:
        return lambda: verify(headers, BODY)
    received_at = datetime.now(UTC)
    return lambda: read_event(verify(headers, BODY), received_at)


def deliveries(stack: ExitStack) -> Verify:
    """Return a function that takes a group of new deliveries; the Receiver is closed by `stack`."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.curdir))).resolve()
    runner = stack.enter_context(asyncio.Runner())
    receiver = Receiver(Verifier(SECRET, tolerance=3600), SqliteInbox(folder / "inbox.db"), background=False)
    runner.run(receiver.open())
    stack.callback(lambda: runner.run(receiver.aclose()))
    numbers = count()

    def signed() -> tuple[dict[str, str], bytes]:
        body = BODY.replace(b"xxxxxxxxxxxx", b"%012d" % next(numbers), 1)
        return sign(SECRET, body, nonce="65f0c0ffee123", timestamp=time.time()), body

    async def take(posts: list[tuple[dict[str, str], bytes]]) -> None:
        while posts:
            headers, body = posts.pop()
            assert (await receiver.handle(headers, body)).status == 200

    async def take_all() -> None:
        posts = batches.pop()
        await asyncio.gather(*(take(posts) for _ in range(GROUP)))

    batches = [[signed() for _ in range(BATCH)] for _ in range(ROUNDS)]
    return lambda: runner.run(take_all())


def bare_inserts(stack: ExitStack) -> Verify:
    """Return a function that inserts rows like those of a batch of deliveries, in groups, with one commit for each."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.curdir))).resolve()
    connection = stack.enter_context(closing(sqlite3.connect(folder / "inbox.db", isolation_level=None)))
    connection.execute("PRAGMA synchronous=EXTRA")
    for statement in chain.from_iterable(INBOX.migrations):
        connection.execute(statement)
    columns = ("digest", "status", "name", "fingerprint", "signed_at", "received_at", "nonce", "body", "due_at", "note")
    insert = f"INSERT INTO delivery ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    numbers = count()

    def row() -> tuple[object, ...]:
        digest, now = hashlib.sha512(b"%d" % next(numbers)), time.time_ns() // 1_000
        found = (digest.digest(), "stored", EVENT["event"], digest.hexdigest()[:64])
        return (*found, now, now, "65f0c0ffee123", BODY, now, "")

    def insert_all() -> None:
        rows = batches.pop()
        for start in range(0, BATCH, GROUP):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, rows[start : start + GROUP])
            connection.execute("COMMIT")

    batches = [[row() for _ in range(BATCH)] for _ in range(ROUNDS)]
    return insert_all


def stripe() -> Verify:
    """Return a verification by stripe: a header, a string, a secret."""
    library: Any = import_module("stripe")
    now = int(time.time())
    mac = hmac.digest(SECRET.encode(), f"{now}.".encode() + BODY, "sha256").hex()
    headers = {"stripe-signature": f"t={now},v1={mac}"}
    verify = library.WebhookSignature.verify_header
    return lambda: verify(BODY.decode(), headers["stripe-signature"], SECRET, 3600)


def standard(package: str, module: str, prefix: str) -> Verify:
    """Return a verification by one of the two libraries for Standard Webhooks."""
    webhook: Any = import_module(f"{package}.{module}").Webhook(SECRET)
    now = datetime.now(UTC)
    headers = {
        f"{prefix}-id": "msg_1",
        f"{prefix}-timestamp": str(int(now.timestamp())),
        f"{prefix}-signature": webhook.sign("msg_1", now, BODY.decode()),
    }
    return lambda: webhook.verify(BODY, headers)


def rows(stack: ExitStack) -> Iterator[Row]:
    """Yield all rows whose library is installed."""
    yield Row("ours, the later generation (SHA-256)", ours(later_generation=True))
    yield Row("ours, as documented (SHA-512)", ours(), compared=False)
    yield Row("ours, as documented, and the event read", ours(read=True), compared=False)
    yield Row("ours, a whole delivery (verify, parse, store in a group)", deliveries(stack), compared=False, each=BATCH)
    yield Row("bare sqlite3, storing alone", bare_inserts(stack), compared=False, each=BATCH)
    for name, make in (
        ("stripe", stripe),
        ("svix", lambda: standard("svix", "webhooks", "svix")),
        ("standardwebhooks", lambda: standard("standardwebhooks", "webhooks", "webhook")),
    ):
        try:
            yield Row(f"{name} {version(name)}", make())
        except ModuleNotFoundError:
            print(f"skipped: {name} is not installed", file=sys.stderr)
    for algorithm in ("sha256", "sha512"):
        yield Row(
            f"the {algorithm.upper()} HMAC alone", partial(hmac.digest, b"k" * 32, BODY, algorithm), compared=False
        )


def measure(row: Row) -> tuple[float, float]:
    """Return CPU microseconds per verification, of all threads and of this one."""
    calls = TIMES if row.each == 1 else 1
    gc.collect()
    began, began_here = time.process_time(), time.thread_time()
    for _ in range(calls):
        row.verify()
    ended, ended_here = time.process_time(), time.thread_time()
    scale = 1e6 / (calls * row.each)
    return scale * (ended - began), scale * (ended_here - began_here)


def main() -> None:
    """Print the table; the fastest compared verification is 1.00."""
    assert len(BODY) == 1024
    with ExitStack() as stack:
        measured = list(rows(stack))
        figures: dict[str, list[tuple[float, float]]] = {row.name: [] for row in measured}
        for row in measured * ROUNDS:
            figures[row.name].append(measure(row))
    medians = {name: statistics.median(everything for everything, _ in found) for name, found in figures.items()}
    fastest = min(medians[row.name] for row in measured if row.compared)
    table: list[tables.Row] = [
        {
            "verifier": name,
            "CPU µs": round(took, 2),
            "lowest": round(min(everything for everything, _ in figures[name]), 2),
            "of these on the calling thread": round(statistics.median(here for _, here in figures[name]), 2),
            "verifications/s": round(1e6 / took),
            "of the fastest peer": round(took / fastest, 3),
        }
        for name, took in medians.items()
    ]
    tables.publish({"verify a body of 1 KiB": table}, "stripe", "svix", "standardwebhooks")


if __name__ == "__main__":
    main()
