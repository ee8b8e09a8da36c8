"""Grant access to the members in a file (CSV, JSON lines, .xlsx), once each, and write their links to a CSV file.

To try the example, run `tgmembership fake --port 8000`, paste the three lines that it prints into another terminal, and
run there

    python examples/bulk_import.py examples/members.csv

It is safe to kill the program at any time and to run it again: granted members are not granted again, planned grants
are sent, and unknown outcomes are held for you to decide. Each link is written to `members.csv.links.csv` at least once
and then marked as delivered in the ledger. After a crash between the two steps, a link is written twice.
"""

import asyncio
import csv
import logging
import os
import sys
from pathlib import Path
from typing import Final

from tgmembership_async import Session
from tgmembership_async.grants import Grant, Granter, GrantStatus, SqliteLedger, read_members

CONCURRENCY: Final = 16


async def write_links(granter: Granter, links: Path) -> int:
    """Write all links that are not marked as delivered, also those of earlier runs, and return their number."""
    written = 0
    with links.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        async for grant in granter.undelivered():
            table.writerow([grant.ref, grant.member_id, link_of(grant)])
            file.flush()
            os.fsync(file.fileno())
            await granter.mark_delivered(grant.ref)
            written += 1
    return written


def link_of(grant: Grant) -> str:
    """Return the link, else the token, or "" if the service returned neither."""
    return "" if grant.token is None else grant.token.link or grant.token.token or ""


def ledger_of(file: Path) -> Path:
    """Return the bot's one ledger: a file of members that is renamed or copied must not grant anybody again."""
    old = file.with_name(f"{file.name}.db")  # where an earlier version of this example kept it
    named = os.environ.get("TGMEMBERSHIP_LEDGER")
    if named is None and old.exists():
        sys.exit(f"{old} has the grants made before: export TGMEMBERSHIP_LEDGER={old}")
    return Path(named or Path.home() / f"tgmembership-{os.environ['TGMEMBERSHIP_BOT_ID']}.db")


async def main(file: Path) -> int:
    """Run the import and return the exit code: 0 if all members have access, else 1."""
    members = read_members(file)
    ledger, links = ledger_of(file), file.with_name(f"{file.name}.links.csv")
    print(f"Read {members}\nLedger: {ledger}", file=sys.stderr)
    async with Granter(Session.from_env(max_connections=CONCURRENCY), SqliteLedger(ledger)) as granter:
        async with granter.provision(members, concurrency=CONCURRENCY) as run:
            async for grant in run:
                if grant.status not in (GrantStatus.GRANTED, GrantStatus.DELIVERED):
                    print(f"{grant.ref} is {grant.status}: {grant.error}")
        written = await write_links(granter, links)
    found = run.summary
    print(f"{found.granted} granted, {found.already} before; {found.refused} refused, {written} links in {links.name}")
    if found.unknown:
        print(f"Unknown outcomes: {found.unknown}. Run tgmembership grants reconcile --ledger {ledger}")
    if run.stopped:
        print(f"Ended early: {run.stopped}. Correct this and run the program again.")
    return int(bool(found.refused or found.unknown or found.planned or found.conflicts or run.stopped))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # warnings concern single rows, whose errors are printed
    os.umask(0o077)  # links give access: create files that only this user can read
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
