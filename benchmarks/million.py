"""Measure the commands of a large shop: `provision --dry-run`, a run that is resumed, and `grants owed`.

    python benchmarks/million.py [--quick] [--json FILE]

Each command runs in a process of its own, with a CSV file of members and a ledger that has all of them as granted, so
that no request is sent; a dry run also with an empty ledger, and with a workbook. The figures are its CPU seconds and
its peak resident memory. The ledger's rows are copied from 1,000 that `Granter.provision` wrote.
"""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from openpyxl import Workbook
from tables import Row, option, publish, write

from tgmembership_async import Headers, Request, Response, Session
from tgmembership_async.grants import Granter, GrantRequest, SqliteLedger

KEY = "0123456789abcdefghij0123456789abcdefghij"
URL = "http://127.0.0.1:9"  # nobody listens there
ENVIRONMENT = {"TGMEMBERSHIP_BOT_ID": "1", "TGMEMBERSHIP_API_KEY": KEY, "TGMEMBERSHIP_BASE_URL": URL}
TEMPLATE = 1_000
TABLE = "one SQLite ledger, all rows granted"
EMPTY = "a dry run, no ledger yet"
HEADINGS = ("ref", "member_id")
UNIT = 1 if sys.platform == "darwin" else 1_024
COPY = (
    "INSERT INTO token (id, body) SELECT id + :by, body FROM token WHERE id <= :template",
    """
    INSERT INTO grants (id, ref, plan_id, member_id, note, status, attempts, token_id, error, updated_at, granted_at)
    SELECT id + :by, 'order-' || (id + :by), plan_id, id + :by, note, status, attempts, token_id + :by, error,
        updated_at, granted_at
    FROM grants WHERE id <= :template
    """,
    """
    INSERT INTO attempt (grant_id, number, ended, at, status, evidence)
    SELECT grant_id + :by, number, ended, at, status, evidence FROM attempt WHERE grant_id <= :template
    """,
)
COMMANDS = {
    "grants owed": ["grants", "owed"],
    "provision --dry-run": ["provision", "members.csv", "--plan-id", "1", "--dry-run"],
    "provision, resumed": ["provision", "members.csv", "--plan-id", "1"],
}


class Null:
    """A Transport that returns the same token at once."""

    async def send(self, request: Request) -> Response:
        """Return the answer."""
        request.progress.begun = True
        body = {"ok": True, "code": 200, "result": "aE1pu1lJo7XBetF5gIRHYH7L"}
        return Response(200, Headers(()), json.dumps(body).encode())

    async def aclose(self) -> None:
        """Do nothing."""


async def write_template(ledger: Path) -> None:
    """Write the first rows, one after the other, so that the id of a row is its number."""
    session = Session(1, KEY, base_url=URL, transport=Null())
    async with Granter(session, SqliteLedger(ledger)) as granter:
        requests = (GrantRequest(f"order-{number}", 1, number) for number in range(1, TEMPLATE + 1))
        await granter.provision(requests, concurrency=1)


def write_csv(path: Path, members: int) -> None:
    """Write a CSV file with `members` members."""
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(HEADINGS) + "\n")
        file.writelines(f"order-{number},{number}\n" for number in range(1, members + 1))


def write_workbook(path: Path, members: int) -> None:
    """Write a workbook with `members` members."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(HEADINGS)
    for number in range(1, members + 1):
        sheet.append((f"order-{number}", number))
    book.save(path)


def fill(folder: Path, members: int) -> None:
    """Write a file with `members` members, and a ledger in which all are granted."""
    write_csv(folder / "members.csv", members)
    asyncio.run(write_template(folder / "grants.db"))
    with closing(sqlite3.connect(folder / "grants.db")) as connection, connection:
        for by in range(TEMPLATE, members, TEMPLATE):
            for statement in COPY:
                connection.execute(statement, {"by": by, "template": TEMPLATE})


def measure(folder: Path, words: list[str]) -> tuple[float, float]:
    """Run a command, and return its CPU seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "tgmembership_async.cli", *words, "--ledger", "grants.db"]
    with (folder / "output").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return used.ru_utime + used.ru_stime, used.ru_maxrss * UNIT / 2**20


def by_command(rows: list[Row]) -> list[Row]:
    """Return the rows of one command below each other."""
    return sorted(rows, key=lambda row: list(COMMANDS).index(str(row["command"])))


def dry_runs(sizes: Sequence[int]) -> list[Row]:
    """Measure dry runs of CSV files, and of one workbook with the second of the sizes."""
    rows: list[Row] = []
    files = [(write_csv, "members.csv", size) for size in sizes] + [(write_workbook, "members.xlsx", sizes[1])]
    for write_file, name, members in files:
        with tempfile.TemporaryDirectory() as folder:
            write_file(Path(folder, name), members)
            seconds, peak = measure(Path(folder), ["provision", name, "--plan-id", "1", "--dry-run"])
        rows.append({"file": name, "rows": members, "CPU s": round(seconds, 1), "peak MiB": round(peak)})
    return rows


def main() -> None:
    """Print the tables."""
    quick = "--quick" in sys.argv
    rows: list[Row] = []
    empty = dry_runs((2_000, 20_000) if quick else (1_000, 200_000, 1_000_000))
    for members in (2_000, 20_000) if quick else (1_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(folder, members)
            for command, words in COMMANDS.items():
                seconds, peak = measure(folder, words)
                rows.append({"command": command, "rows": members, "CPU s": round(seconds, 1), "peak MiB": round(peak)})
                if path := option("--json"):  # the longest takes minutes: keep what was measured before it
                    write(Path(path), {TABLE: by_command(rows), EMPTY: empty})
    publish({TABLE: by_command(rows), EMPTY: empty})


if __name__ == "__main__":
    main()
