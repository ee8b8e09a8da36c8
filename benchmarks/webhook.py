"""Measure `Verifier.verify`, compared to stripe, svix and standardwebhooks in interleaved rounds.

    python benchmarks/webhook.py [--quick] [--json FILE]

Bodies are 1 KiB of bytes and headers a mapping, as frameworks pass them. Every peer is called as its documentation
says, with an object created once. The figures are medians of CPU time per verification. The service's documented scheme
uses SHA-512, which alone takes longer than the SHA-256 of the peers; the row of its later API generation, with SHA-256,
is comparable. svix and standardwebhooks also parse the body; stripe's verifier and this package's do not.
"""

import base64
import gc
import hmac
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

import tables
from attrs import frozen

from tgmembership_async.webhooks import Verifier, sign
from tgmembership_async.webhooks.events import read_event

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
EVENT = {"event": "order_completed", "debug_id": "dbg_1", "data": {"order_id": "17", "user_id": "42", "note": ""}}
BODY = json.dumps(EVENT | {"data": {**EVENT["data"], "note": "x" * (1024 - len(json.dumps(EVENT)))}}).encode()  # type: ignore[dict-item]
Verify = Callable[[], object]


@frozen
class Row:
    """A verification to measure; `compared` ones count for the fastest."""

    name: str
    verify: Verify
    compared: bool = True


def ours(*, later_generation: bool = False, read: bool = False) -> Verify:
    """Return a verification by this package."""
    headers = sign(SECRET, BODY, nonce=None if later_generation else "65f0c0ffee123", timestamp=time.time())
    verify = Verifier(SECRET, tolerance=3600).verify
    if not read:
        return lambda: verify(headers, BODY)
    received_at = datetime.now(UTC)
    return lambda: read_event(verify(headers, BODY), received_at)


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


def rows() -> Iterator[Row]:
    """Yield all rows whose library is installed."""
    yield Row("ours, the later generation (SHA-256)", ours(later_generation=True))
    yield Row("ours, as documented (SHA-512)", ours(), compared=False)
    yield Row("ours, as documented, and the event read", ours(read=True), compared=False)
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


def measure(verify: Verify, times: int) -> float:
    """Return CPU microseconds per verification."""
    gc.collect()
    began = time.process_time()
    for _ in range(times):
        verify()
    return 1e6 * (time.process_time() - began) / times


def main() -> None:
    """Print the table; the fastest compared verification is 1.00."""
    rounds, times = (5, 2_000) if "--quick" in sys.argv else (25, 5_000)
    measured = list(rows())
    assert len(BODY) == 1024
    figures: dict[str, list[float]] = {row.name: [] for row in measured}
    for row in measured * rounds:
        figures[row.name].append(measure(row.verify, times))
    medians = {name: statistics.median(found) for name, found in figures.items()}
    fastest = min(medians[row.name] for row in measured if row.compared)
    table: list[tables.Row] = [
        {
            "verifier": name,
            "CPU µs": round(took, 2),
            "verifications/s": round(1e6 / took),
            "of the fastest peer": round(took / fastest, 3),
        }
        for name, took in medians.items()
    ]
    tables.publish({"verify a body of 1 KiB": table}, "stripe", "svix", "standardwebhooks")


if __name__ == "__main__":
    main()
