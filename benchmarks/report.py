"""Measure `tgmembership report` of a large ledger and of a large inbox, in a process of its own.

    python benchmarks/report.py [--quick] [--json FILE]

The grants and orders are of three years; a grant in a thousand is refused, and a tenth of the orders are renewals. CPU
and the largest memory are those of the whole command, which also asks a server for the totals.
"""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tables import Row, publish

from tgmembership_async.grants import SqliteLedger
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.webhooks import SqliteInbox

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECONDS = 3 * 365 * 86_400
INSERT_GRANT = (
    "INSERT INTO grants (id, ref, plan_id, member_id, note, status, attempts, updated_at, granted_at)"
    " VALUES (?, ?, ?, ?, '', ?, 1, ?, ?)"
)
INSERT_EVENT = (
    "INSERT INTO delivery (digest, status, name, fingerprint, signed_at, received_at, nonce, body, note)"
    " VALUES (?, 'done', 'order_completed', ?, ?, ?, '', ?, '')"
)


def times(count: int) -> Iterator[tuple[int, datetime]]:
    """Yield numbers from 1, and times of three years in order."""
    for number in range(1, count + 1):
        yield number, NOW - timedelta(seconds=SECONDS * (count - number) // count)


def stamp(time: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return round(1e6 * time.timestamp())


def grants(count: int) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a ledger; one of a thousand is refused."""
    for number, time in times(count):
        refused = number % 1_000 == 0
        at = stamp(time)
        status = "refused" if refused else "delivered"
        yield number, f"pi_{number}", number % 4 + 1, number, status, at, None if refused else at


def events(count: int) -> Iterator[tuple[object, ...]]:
    """Yield the rows of an inbox."""
    for number, time in times(count):
        data = {
            "order_id": str(number),
            "user_id": str(number % (count * 9 // 10)),
            "plan_id": "1",
            "plan_name": "My first plan",
            "amount": "9.99",
            "currency": "EUR",
            "payment_method": "Stripe",
            "paid_at": time.isoformat(),
        }
        body = json.dumps({"event": "order_completed", "debug_id": "d", "data": data}).encode()
        yield number.to_bytes(32), str(number), stamp(time), stamp(time), body


async def create(store: SqliteLedger | SqliteInbox) -> None:
    """Create the tables of a ledger or an inbox."""
    async with store:
        pass


def fill(path: Path, option: str, count: int) -> None:
    """Create a ledger or an inbox, and fill it in one transaction."""
    asyncio.run(create(SqliteLedger(path) if option == "--ledger" else SqliteInbox(path)))
    statement, rows = (INSERT_GRANT, grants(count)) if option == "--ledger" else (INSERT_EVENT, events(count))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(statement, rows)


def measure(option: str, count: int, environment: dict[str, str]) -> Row:
    """Return the CPU seconds and the largest memory of one report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        fill(path, option, count)
        command = [sys.executable, "-m", "tgmembership_async.cli", "report", option, str(path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
    what = "grants in a ledger" if option == "--ledger" else "orders in an inbox"
    return {
        "report of": f"{count:,} {what}",
        "CPU seconds": round(used.ru_utime + used.ru_stime, 2),
        "largest memory, MiB": round(used.ru_maxrss / 1024),
    }


def main() -> None:
    """Print the table."""
    large = {"--ledger": 1_000_000, "--inbox": 100_000}
    counts = {option: (1_000, 10_000 if "--quick" in sys.argv else most) for option, most in large.items()}
    service = FakeService(seed=3)
    service.populate(60)
    with serve(service) as server:
        environment = {**os.environ, **server.env(), "NO_PROXY": "*"}
        rows = [measure(option, count, environment) for option, sizes in counts.items() for count in sizes]
    publish({"one report": rows}, "rich", sqlite=sqlite3.sqlite_version)


if __name__ == "__main__":
    main()
