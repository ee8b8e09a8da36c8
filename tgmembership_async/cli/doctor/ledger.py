"""What `tgmembership doctor` finds about the ledger that the environment names; it opens and changes nothing."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tgmembership_async.cli.doctor.network import Check
from tgmembership_async.cli.ledger_option import Server, place
from tgmembership_async.errors import UsageError
from tgmembership_async.storage.sqlite.files import status
from tgmembership_async.storage.sqlite.owner_lock import told_beside
from tgmembership_async.storage.sqlite.schema import check_path


def look_at_the_ledger() -> Iterator[Check]:
    """Yield what is wrong with the file in TGMEMBERSHIP_LEDGER, if there is one; no path is in it."""
    named = os.environ.get("TGMEMBERSHIP_LEDGER")
    if not named or isinstance(place(named), Server):
        return
    file = Path(os.path.realpath(Path(named).parent), Path(named).name)
    try:
        before, there = told_beside(file), status(file)
        if there is None or (stat.S_ISREG(there.st_mode) and there.st_size == 0):
            yield _missing(known=before is not None)
            return
        check_path(file, owner=True, must_exist=True)
    except UsageError as error:
        yield Check("ledger", "failed", str(error).replace(str(file), "the ledger"))
    else:
        yield Check("ledger", "ok", "the file is there, and this user's")


def _missing(*, known: bool) -> Check:
    if known:
        return Check(
            "ledger",
            "failed",
            "the file is missing or empty, and its lock file tells that it was not: put it back, for a new one knows "
            "of no grant and would send all of them again",
        )
    return Check(
        "ledger",
        "note",
        "the file is missing or empty. If this is not the first start, its disk may not outlive the process: "
        "SqliteLedger(..., must_exist=True) refuses to make a new one",
    )
