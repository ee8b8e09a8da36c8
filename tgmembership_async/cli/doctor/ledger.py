"""Check a ledger file, without opening or changing it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tgmembership_async.cli.doctor.network import Check
from tgmembership_async.cli.ledger_option import Place, place
from tgmembership_async.errors import UsageError
from tgmembership_async.storage.sqlite.files import status
from tgmembership_async.storage.sqlite.owner_lock import read_facts_of
from tgmembership_async.storage.sqlite.schema import check_path


def ledger_of_environment() -> Place | None:
    """Return the ledger that TGMEMBERSHIP_LEDGER names, if it is set."""
    named = os.environ.get("TGMEMBERSHIP_LEDGER")
    return place(named, in_ps=False) if named else None


def check_ledger(named: Place | None) -> Iterator[Check]:
    """Yield the check of a ledger that is a file; its text contains no path."""
    if not isinstance(named, Path):
        return
    file = Path(os.path.realpath(named.parent), named.name)
    try:
        before, there = read_facts_of(file), status(file)
        if there is None or (stat.S_ISREG(there.st_mode) and there.st_size == 0):
            yield _missing(known=before is not None)
            return
        check_path(file, owner=True, must_exist=True)
    except UsageError as error:
        yield Check("ledger", "failed", str(error).replace(str(file), "the ledger"))
    else:
        yield Check("ledger", "ok", "the file exists and belongs to this user")


def _missing(*, known: bool) -> Check:
    if known:
        return Check(
            "ledger",
            "failed",
            "the file is missing or empty, but its lock file shows that a ledger existed. Restore the file: a new, "
            "empty ledger would grant access again for all refs",
        )
    return Check(
        "ledger",
        "note",
        "the file is missing or empty. If this is not the first start, the file may be on an ephemeral disk: "
        "SqliteLedger(..., must_exist=True) refuses to create a new file",
    )
