"""The evening job: import paying members from a CSV file, grant access to each once, and write down their links.

Try it on a TGmembership of your own: run `tgmembership fake --port 8000`, export the three lines that it prints, and

    python examples/bulk_import.py examples/members.csv

Kill it whenever you like, and run it again: what was granted stays granted, what was planned is sent, and what nobody
can know is held for you to decide. The links go to `members.csv.links.csv`, each as soon as the ledger has it and at
least once, for a crash may come between writing a link and marking it as delivered.
"""

import asyncio
import csv
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tgmembership_async import Session
from tgmembership_async.grants import Grant, Granter, GrantRequest, GrantStatus, SqliteLedger

AT_A_TIME: Final = 16


def members(file: Path) -> Iterator[GrantRequest]:
    """Yield a request for each row of ref,member_id,plan_id: one at a time, however long the file."""
    with file.open(encoding="utf-8-sig", newline="") as rows:
        for row in csv.DictReader(rows):
            yield GrantRequest(row["ref"], plan_id=int(row["plan_id"]), member_id=int(row["member_id"]))


async def hand_over(granter: Granter, links: Path) -> int:
    """Write the links that are not delivered yet, also those of a run that was killed, and return how many."""
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
    """Return what the customer needs; nothing where the service answered "granted" without saying how to get in."""
    return "" if grant.token is None else grant.token.link or grant.token.token or ""


async def main(file: Path) -> int:
    """Return 0 if everybody has access."""
    ledger, links = file.with_name(f"{file.name}.db"), file.with_name(f"{file.name}.links.csv")
    async with Granter(Session.from_env(max_connections=AT_A_TIME), SqliteLedger(ledger)) as granter:
        async with granter.provision(members(file), concurrency=AT_A_TIME) as run:
            async for grant in run:
                if grant.status not in (GrantStatus.GRANTED, GrantStatus.DELIVERED):
                    print(f"{grant.ref} is {grant.status}: {grant.error}")
        written = await hand_over(granter, links)
    found = run.summary
    print(f"{found.granted} granted, {found.already} before; {found.refused} refused, {written} links in {links.name}")
    if found.unknown:
        print(f"{found.unknown} may or may not be granted: tgmembership grants reconcile --ledger {ledger}")
    if run.stopped:
        print(f"Ended early, for {run.stopped}: run it again when that is mended")
    return int(bool(found.refused or found.unknown or found.planned or found.conflicts or run.stopped))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # each warning is about a row, and printed with it
    os.umask(0o077)  # whoever reads a link may join
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
