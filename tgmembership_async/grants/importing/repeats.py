"""Find the refs that a file contains twice, in constant memory: digests in a temporary SQLite database."""

from tgmembership_async.grants.model import GrantRequest
from tgmembership_async.storage.sqlite.seen import Temporary, digest


class Repeats(Temporary):
    """Stores a digest of each ref, its plan and member, and its line. Use it in a `with`."""

    _table = "CREATE TABLE seen (ref BLOB PRIMARY KEY, wish BLOB, line INT) WITHOUT ROWID"

    def first(self, request: GrantRequest, line: int) -> tuple[int, bool] | None:
        """Return None for a new ref; else the line of its first row, and whether that has the same plan and member."""
        ref, wish = digest(request.ref), digest(f"{request.plan_id} {request.member_id}")
        if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (ref, wish, line)).rowcount:
            return None
        found, where = self._database.execute("SELECT wish, line FROM seen WHERE ref = ?", (ref,)).fetchone()
        return where, found == wish
