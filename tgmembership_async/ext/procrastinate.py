"""procrastinate: grants as jobs on PostgreSQL, for any number of worker processes. The task uses the ledger.

    app = App(connector=PsycopgConnector(conninfo="postgresql://..."))
    setup(app, Granter(Session.from_env(), PostgresLedger("postgresql://...")))

    await defer_grants(app, requests)                                     # ten thousand in seconds
    procrastinate --app=shop.app worker --concurrency 8                   # any number, on any machine

The ledger decides what is sent, not the job. A job may run twice, or again after its worker was killed: a grant that
succeeded is not sent again, and a grant that may have succeeded fails its job with GrantHeld and waits for a decision.
procrastinate retries a job only if the ledger failed before anything was sent (StorageError). If a job failed and its
row is still `planned` (no connection, turned away for too long, credentials rejected), nothing was granted: defer it
again, or call `granter.run_planned()`.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Final

from anyio import get_cancelled_exc_class

from tgmembership_async.extras import missing

try:
    from procrastinate import App, JobContext
    from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, TaskAlreadyRegistered, UniqueViolation
    from procrastinate.jobs import Job, Status
    from procrastinate.retry import BaseRetryStrategy, RetryDecision
except ModuleNotFoundError as _error:
    raise missing(__name__, "procrastinate", _error) from None

from tgmembership_async.errors import RefConflict, StorageError, TGMembershipError, UsageError
from tgmembership_async.grants import transitions
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest
from tgmembership_async.grants.postgres.ledger import PostgresLedger

QUEUE: Final = "tgmembership"
GRANT_MEMBER: Final = "tgmembership.grant_member"
RETURN_STALLED: Final = "tgmembership.return_stalled"
EVERY_MINUTE: Final = "* * * * *"

Ended = Callable[[GrantRequest, Grant | TGMembershipError], object]
Conflicting = Callable[[GrantRequest, RefConflict], object]

_BATCH: Final = 1_000
_TRIES: Final = 10
_LONGEST_LOCK: Final = 1_000
_LONGEST_PAUSE: Final = 60
_WAITING: Final = """
    SELECT queueing_lock, args->'plan_id' AS plan_id, (args->>'member_id')::bigint AS member_id
    FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY(%(locks)s::text[])
"""


class _RetryStorageErrors(BaseRetryStrategy):
    """Retry a job for which the ledger failed: nothing was sent, and its row may not be planned yet."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return a decision for StorageError, to run again after a pause that doubles up to a minute."""
        if not isinstance(exception, StorageError):
            return None
        return RetryDecision(retry_in={"seconds": min(2 ** min(job.attempts, 10), _LONGEST_PAUSE)})


def setup(app: App, granter: Granter | None = None, *, ended: Ended | None = None) -> None:
    """Add the task `tgmembership.grant_member` to an App, and a periodic task that returns the jobs of dead workers.

    Workers run the task with `granter`. They open it with their first grant and close it with their event loop, unless
    it is open already. A process that only defers jobs needs no Granter. `ended` is called with each request and its
    result, a Grant or an error. Raises UsageError for a wrong argument, and if called twice for one App.
    """
    if not isinstance(app, App) or not isinstance(granter, Granter | None):
        msg = "setup takes a procrastinate App and, in the module that workers import, a Granter: setup(app, granter)"
        raise UsageError(msg)
    opened = _opener(granter)

    async def grant_member(
        ref: str, plan_id: int | str, member_id: int | None = None, note: str = "", paid_at: str | None = None
    ) -> str:
        paid = None if paid_at is None else datetime.fromisoformat(paid_at)
        request = GrantRequest(ref, plan_id, member_id, note, paid)
        try:
            grant = await (await opened()).grant(ref, plan_id=plan_id, member_id=member_id, note=note, paid_at=paid)
        except TGMembershipError as error:
            if ended is not None:
                ended(request, error)
            raise
        if ended is not None:
            ended(request, grant)
        return str(grant.status)  # procrastinate logs what a task returns, so no token

    async def return_stalled(context: JobContext, timestamp: int) -> int:  # noqa: ARG001 - the signature is procrastinate's
        return await put_back(context.app)

    try:
        app.task(name=GRANT_MEMBER, queue=QUEUE, retry=_RetryStorageErrors())(grant_member)
    except TaskAlreadyRegistered:
        msg = "this App has the task grant_member already: call setup once"
        raise UsageError(msg) from None
    sweep = app.task(name=RETURN_STALLED, queue=QUEUE, queueing_lock=RETURN_STALLED, pass_context=True)(return_stalled)
    app.periodic(cron=EVERY_MINUTE)(sweep)


def _opener(granter: Granter | None) -> Callable[[], Awaitable[Granter]]:
    """Return a function that returns the open Granter. Its first call opens the Granter, until the event loop ends."""
    turn = asyncio.Lock()
    kept: set[asyncio.Task[None]] = set()

    async def close_at_the_end(granter: Granter) -> None:
        try:
            await asyncio.Event().wait()
        except get_cancelled_exc_class():  # the loop ends; procrastinate has no hook for that
            await granter.aclose()
            raise

    async def opened() -> Granter:
        if granter is None:
            msg = "this worker has no Granter: setup(app, granter) in the module that its --app names"
            raise UsageError(msg)
        async with turn:
            if not granter.is_open:
                await granter.open()
                kept.add(asyncio.create_task(close_at_the_end(granter), name="closes the Granter"))
        return granter

    return opened


async def defer_grants(
    app: App,
    requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest],
    *,
    ledger: PostgresLedger | None = None,
    conflicting: Conflicting | None = None,
) -> int:
    """Enqueue one job for each request, in batches, and return the number of new jobs.

    A ref that is in the queue already is not enqueued again: the `ref` is the queueing lock. A ref whose job has ended
    is enqueued again, and the job finds the row in the ledger. Memory use is constant. `app` must be open; `setup` is
    not required in this process. Raises UsageError for values that are not GrantRequests.

    With an open `ledger`, the one that the workers have, each request is planned there before it is enqueued: whatever
    becomes of its job, its row is there, and `granter.run_planned()` carries it out.

    A request whose ref is in the queue or in `ledger` for another plan or member is not enqueued, and `conflicting` is
    called with it and the reason. Without that, all others are enqueued, and then RefConflict is raised for one of
    them.
    """
    first: RefConflict | None = None

    def keep(_: GrantRequest, conflict: RefConflict) -> None:
        nonlocal first
        first = first or conflict

    report = conflicting or keep
    new = 0
    async for batch in _batches(requests, report):
        if ledger is not None:
            batch = await _planned(ledger, batch, report)  # noqa: PLW2901 - without what conflicts
        new += await _defer(app, batch, report)
    if first is not None:
        raise first
    return new


async def _batches(
    requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest], conflicting: Conflicting
) -> AsyncIterator[dict[str, GrantRequest]]:
    """Yield batches of requests by their locks. Of several requests with one lock the first is used."""
    batch: dict[str, GrantRequest] = {}
    async for request in _each(requests):
        if not isinstance(request, GrantRequest):
            msg = f"requests must hold GrantRequest values, not {type(request).__name__}"
            raise UsageError(msg)
        first = batch.setdefault(_lock_of(request.ref), request)
        _compare(request, first.plan_id, first.member_id, conflicting)
        if len(batch) == _BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch


async def _planned(
    ledger: PostgresLedger, batch: dict[str, GrantRequest], conflicting: Conflicting
) -> dict[str, GrantRequest]:
    """Plan a batch in the ledger, and return those whose rows have the same plan and member."""
    same: dict[str, GrantRequest] = {}
    for (lock, request), row in zip(batch.items(), await ledger.plan_all(batch.values()), strict=True):
        try:
            transitions.same(row, request)
        except RefConflict as conflict:
            conflicting(request, conflict)
        else:
            same[lock] = request
    return same


def _compare(request: GrantRequest, plan_id: int | str, member_id: int | None, conflicting: Conflicting) -> None:
    """Report a request whose ref is in the queue for another plan or member."""
    if (request.plan_id, request.member_id) != (plan_id, member_id):
        who = "no member" if member_id is None else f"member {member_id}"
        msg = f"{request.ref} waits in the queue for plan {plan_id} and {who}: use another ref for another grant"
        conflicting(request, RefConflict(msg))


async def _each(requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest]) -> AsyncIterator[GrantRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _lock_of(ref: str) -> str:
    # An index entry of PostgreSQL has at most 2,704 bytes.
    return f"{GRANT_MEMBER}:{ref if len(ref) <= _LONGEST_LOCK // 4 else sha256(ref.encode()).hexdigest()}"


async def _defer(app: App, batch: dict[str, GrantRequest], conflicting: Conflicting) -> int:
    for _ in range(_TRIES):
        rows = await app.connector.execute_query_all_async(query=_WAITING, locks=list(batch))
        waiting = {row["queueing_lock"]: (row["plan_id"], row["member_id"]) for row in rows}
        # Sorted by lock, so that two processes that defer the same refs cannot deadlock.
        jobs = [_job_of(app, batch[lock], lock) for lock in sorted(batch.keys() - waiting.keys())]
        if jobs:
            try:
                await app.job_manager.batch_defer_jobs_async(jobs)
            except AlreadyEnqueued:
                continue  # another process has enqueued one of them; nothing of this batch was written
        for lock, (plan_id, member_id) in waiting.items():
            _compare(batch[lock], plan_id, member_id, conflicting)
        return len(jobs)
    msg = f"other processes enqueued the same refs {_TRIES} times in a row; defer them again, which is safe"
    raise UsageError(msg)


def _job_of(app: App, request: GrantRequest, lock: str) -> Job:
    arguments = {
        "ref": request.ref,
        "plan_id": request.plan_id,
        "member_id": request.member_id,
        "note": request.note,
    }
    if request.paid_at is not None:  # workers of an earlier version do not know it
        arguments["paid_at"] = request.paid_at.isoformat()
    return app.configure_task(GRANT_MEMBER, queue=QUEUE, queueing_lock=lock, task_kwargs=arguments).job


async def put_back(app: App, seconds_since_heartbeat: float = 30) -> int:
    """Put the jobs of dead workers back into the queue, and return their number.

    This does not retry grants: if the grant of a job may have been sent, the job fails with GrantHeld. Workers call
    this every minute. A worker is dead if it has sent no heartbeat for `seconds_since_heartbeat` seconds.
    """
    back = 0
    for job in await app.job_manager.get_stalled_jobs(
        task_name=GRANT_MEMBER, seconds_since_heartbeat=seconds_since_heartbeat
    ):
        try:
            await app.job_manager.retry_job(job)
        except UniqueViolation:  # its ref is in the queue again as another job
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=False)
        except ConnectorException:  # its worker was slow, and has ended the job in the meantime
            continue
        else:
            back += 1
    return back
