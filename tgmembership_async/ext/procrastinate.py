"""procrastinate: grants as jobs on PostgreSQL, for any number of worker processes, with the ledger inside the task.

    app = App(connector=PsycopgConnector(conninfo="postgresql://..."))
    setup(app, Granter(Session.from_env(), PostgresLedger("postgresql://...")))

    await defer_grants(app, requests)                                     # anywhere, ten thousand in seconds
    procrastinate --app=shop.app worker --concurrency 8                   # as often as you like, on any machine

A job is a reminder, and the ledger decides. So it does no harm that a job runs twice, or after its worker was killed:
what was granted is not sent again, and what may have been granted ends in GrantHeld, as a failed job, and waits for a
decision. No grant is ever retried by the engine. A job that failed with its row still `planned` (no connection, turned
away for too long, credentials rejected) did nothing: defer it again, or let `granter.run_planned()` carry it out.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from hashlib import sha256
from typing import Final

from anyio import get_cancelled_exc_class
from procrastinate import App, JobContext
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, TaskAlreadyRegistered, UniqueViolation
from procrastinate.jobs import Job, Status

from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest

QUEUE: Final = "tgmembership"
GRANT_MEMBER: Final = "tgmembership.grant_member"
RETURN_STALLED: Final = "tgmembership.return_stalled"
EVERY_MINUTE: Final = "* * * * *"

Ended = Callable[[GrantRequest, Grant | TGMembershipError], object]

_BATCH: Final = 1_000
_TRIES: Final = 10
_LONGEST_LOCK: Final = 1_000
_WAITING: Final = (
    "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY(%(locks)s::text[])"
)


def setup(app: App, granter: Granter | None = None, *, ended: Ended | None = None) -> None:
    """Give an App the task `tgmembership.grant_member`, and the periodic one that returns what dead workers left.

    Workers of the App carry it out through `granter`, which opens with their first grant and closes with their event
    loop; one that you have opened yourself is left alone. A process that only defers needs no Granter. `ended` is
    called with each request and what came of it. Call it once for each App; raises UsageError otherwise.
    """
    if not isinstance(app, App) or not isinstance(granter, Granter | None):
        msg = "setup takes procrastinate's App and, in what workers import, a Granter: setup(app, granter)"
        raise UsageError(msg)
    opened = _opener(granter)

    async def grant_member(ref: str, plan_id: int, member_id: int | None = None, note: str = "") -> str:
        request = GrantRequest(ref, plan_id, member_id, note)
        try:
            grant = await (await opened()).grant(ref, plan_id=plan_id, member_id=member_id, note=note)
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
        app.task(name=GRANT_MEMBER, queue=QUEUE)(grant_member)
    except TaskAlreadyRegistered:
        msg = "this App has the task grant_member already: call setup once"
        raise UsageError(msg) from None
    sweep = app.task(name=RETURN_STALLED, queue=QUEUE, queueing_lock=RETURN_STALLED, pass_context=True)(return_stalled)
    app.periodic(cron=EVERY_MINUTE)(sweep)


def _opener(granter: Granter | None) -> Callable[[], Awaitable[Granter]]:
    """Return what gives the open Granter: the first caller opens it, for as long as the event loop runs."""
    turn = asyncio.Lock()
    kept: set[asyncio.Task[None]] = set()

    async def close_at_the_end(granter: Granter) -> None:
        try:
            await asyncio.Event().wait()
        except get_cancelled_exc_class():  # the loop ends: procrastinate has no hook for it
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


async def defer_grants(app: App, requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest]) -> int:
    """Enqueue one job for each request, in batches, and return how many are new.

    A ref that waits in the queue already is not enqueued again: the `ref` is the queueing lock. One that was carried
    out before is, and then finds its row in the ledger. Memory stays flat. `app` is open; it need not be set up here.
    """
    new = 0
    async for batch in _batches(requests):
        new += await _defer(app, batch)
    return new


async def _batches(
    requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest],
) -> AsyncIterator[dict[str, GrantRequest]]:
    """Yield requests by their locks, so many at a time; of one that stands there twice the first counts."""
    batch: dict[str, GrantRequest] = {}
    async for request in _each(requests):
        if not isinstance(request, GrantRequest):
            msg = f"requests must hold GrantRequest values, not {type(request).__name__}"
            raise UsageError(msg)
        batch.setdefault(_lock_of(request.ref), request)
        if len(batch) == _BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch


async def _each(requests: Iterable[GrantRequest] | AsyncIterable[GrantRequest]) -> AsyncIterator[GrantRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _lock_of(ref: str) -> str:
    # An index of PostgreSQL takes no more than 2,704 bytes.
    return f"{GRANT_MEMBER}:{ref if len(ref) <= _LONGEST_LOCK // 4 else sha256(ref.encode()).hexdigest()}"


async def _defer(app: App, batch: dict[str, GrantRequest]) -> int:
    for _ in range(_TRIES):
        rows = await app.connector.execute_query_all_async(query=_WAITING, locks=list(batch))
        waiting = {row["queueing_lock"] for row in rows}
        # In the order of their locks, so that two who defer the same ones wait for each other in turn.
        jobs = [_job_of(app, batch[lock], lock) for lock in sorted(batch.keys() - waiting)]
        if not jobs:
            return 0
        try:
            await app.job_manager.batch_defer_jobs_async(jobs)
        except AlreadyEnqueued:
            continue  # somebody was quicker with one of them; nothing of this batch was written
        return len(jobs)
    msg = f"others kept enqueueing the same refs, {_TRIES} times in a row; defer them again, it does no harm"
    raise UsageError(msg)


def _job_of(app: App, request: GrantRequest, lock: str) -> Job:
    arguments = {
        "ref": request.ref,
        "plan_id": request.plan_id,
        "member_id": request.member_id,
        "note": request.note,
    }
    return app.configure_task(GRANT_MEMBER, queue=QUEUE, queueing_lock=lock, task_kwargs=arguments).job


async def put_back(app: App, seconds_since_heartbeat: float = 30) -> int:
    """Put the jobs of workers that died back into the queue, and return how many.

    That is no retry: run again, a job whose grant may have been sent ends in GrantHeld, for so says the ledger. Workers
    do this every minute by themselves; one counts as dead after `seconds_since_heartbeat` without a sign of life.
    """
    back = 0
    for job in await app.job_manager.get_stalled_jobs(
        task_name=GRANT_MEMBER, seconds_since_heartbeat=seconds_since_heartbeat
    ):
        try:
            await app.job_manager.retry_job(job)
        except UniqueViolation:  # its ref waits in the queue again anyway, as another job
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=False)
        except ConnectorException:  # its worker was only slow, and has ended it meanwhile
            continue
        else:
            back += 1
    return back
