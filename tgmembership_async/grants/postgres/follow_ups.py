"""Follow-ups of a ledger in PostgreSQL: a lease ends with its worker's process, or when its time is over."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen

from tgmembership_async.grants.follow_ups import FollowUp
from tgmembership_async.grants.postgres.statements import DIALECT
from tgmembership_async.storage.postgres.liveness import ALIVE, Liveness
from tgmembership_async.storage.postgres.server import Lane

# Of two workers that look at one row at once, one waits for the other's row lock, and then finds its lease.
_LEASE: Final = f"""
    INSERT INTO tgm_follow_up AS kept (grant_id, about, failures, due_at, worker, lease, leased_until)
    SELECT id, status, %(failures)s, %(now)s, %(worker)s, 1, clock_timestamp() + %(lease)s FROM tgm_grants
    WHERE ref = %(ref)s AND status = %(about)s
    ON CONFLICT (grant_id) DO UPDATE SET about = excluded.about, failures = excluded.failures,
        due_at = excluded.due_at, worker = excluded.worker, lease = kept.lease + 1, leased_until = excluded.leased_until
    WHERE (kept.about <> excluded.about OR kept.due_at <= %(now)s)
        AND (kept.leased_until IS NULL OR kept.leased_until <= clock_timestamp() OR kept.worker NOT IN ({ALIVE}))
    RETURNING lease
"""  # noqa: S608 - constants
_KEEP: Final = """
    INSERT INTO tgm_follow_up (grant_id, about, failures, due_at)
    SELECT id, %s, 0, %s FROM tgm_grants WHERE ref = %s
    ON CONFLICT (grant_id) DO UPDATE SET about = excluded.about, failures = 0, due_at = excluded.due_at
    WHERE tgm_follow_up.about <> excluded.about
"""
_POSTPONE: Final = """
    UPDATE tgm_follow_up SET failures = %(failures)s, due_at = %(due_at)s
    FROM tgm_grants WHERE id = grant_id AND ref = %(ref)s AND lease = %(lease)s AND about = %(about)s
"""
_END: Final = """
    UPDATE tgm_follow_up SET worker = NULL, leased_until = NULL
    FROM tgm_grants WHERE id = grant_id AND ref = %s AND lease = %s
"""


@frozen
class Begin:
    """Lease the follow-up of a row, if it is due and no running worker has leased it."""

    ref: str
    lease: timedelta
    grace: timedelta
    liveness: Liveness
    clock: Callable[[], datetime]

    def __call__(self, lane: Lane) -> FollowUp | None:
        """Return the follow-up that is leased, or None. A lease whose commit was not confirmed ends with its time."""
        now = self.clock()
        grant, seen = DIALECT.look(lane, self.ref, now, self.grace)
        if seen.keep is not None:
            lane.execute(_KEEP.encode(), (seen.keep.about, seen.keep.due_at, self.ref))
        if not seen.is_due:
            return None
        values = {"failures": seen.failures, "now": now, "worker": self.liveness.secure(), "lease": self.lease}
        leased = lane.execute(_LEASE.encode(), {**values, "ref": self.ref, "about": grant.status}).fetchone()
        return None if leased is None else FollowUp(grant, seen.failures, leased[0])


def postpone(lane: Lane, follow_up: FollowUp, failures: int, due_at: datetime) -> bool:
    """Release a lease, due again later; return False if the lease was no longer held."""
    grant = follow_up.grant
    values = {"failures": failures, "due_at": due_at, "ref": grant.ref, "lease": follow_up.lease, "about": grant.status}
    is_kept = lane.execute(_POSTPONE.encode(), values).rowcount == 1
    end(lane, follow_up)
    return is_kept


def end(lane: Lane, follow_up: FollowUp) -> None:
    """Release a lease."""
    lane.execute(_END.encode(), (follow_up.grant.ref, follow_up.lease))
