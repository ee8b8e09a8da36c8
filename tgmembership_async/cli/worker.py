"""`tgmembership worker`: process the grants in the job queue."""

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import Any, Final

import anyio
import click
from attrs import evolve, field, mutable
from rich.console import Console

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import CONFLICT, columns, fields_of
from tgmembership_async.cli.grant_options import attempts_option, concurrency_option
from tgmembership_async.cli.ledger_option import Place, Server, ledger_option, opened, pace, rate_option, server
from tgmembership_async.cli.output import Format, Writer, note, stream_option, streaming
from tgmembership_async.cli.problems import Problems
from tgmembership_async.cli.queue import app_at, opened_queue
from tgmembership_async.cli.signals import interruptible
from tgmembership_async.errors import CallError, GrantHeld, RefConflict, StorageError, TGMembershipError, Unauthorized
from tgmembership_async.grants.exchange import settlement_of
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.provisioning import StopReason
from tgmembership_async.protocol.retry import COST_TRANSIENT, RetryPolicy
from tgmembership_async.session import Session

_EPILOG: Final = """
\b
Examples:
  export TGMEMBERSHIP_LEDGER=postgresql://shop@db/shop
  tgmembership provision members.csv --plan-id 1 --enqueue
  tgmembership worker --concurrency 8
  tgmembership worker --until-empty > granted.jsonl

Run the worker under systemd or your cluster, so that it is restarted when it ends. If it is killed, the grants it was
sending become unknown and wait for a decision: tgmembership grants list --status unknown

\b
Exit code:
  0    the worker was stopped, or the queue is empty
  1    the service, the network or the database is failing; the remaining grants stay in the queue
  2    wrong usage
  5    the credentials were rejected; the remaining grants stay in the queue
"""
FAILED: Final = "failed"
"""Printed in place of a status if the ledger failed and the row is unchanged."""
_IN_FLIGHT: Final = "Stopping: waiting for the grants in flight. Press Ctrl-C again to end at once."
_CODES: Final = {None: Exit.OK, StopReason.BUDGET: Exit.FAILED, StopReason.CREDENTIALS: Exit.CREDENTIALS}


@click.command("worker", epilog=_EPILOG)
@ledger_option("PostgreSQL database with the ledger and the job queue.", required=True)
@concurrency_option("grants")
@attempts_option
@rate_option
@click.option("--until-empty", is_flag=True, help="Stop when the queue is empty; do not wait for more grants.")
@click.option("--show-links", is_flag=True, help="Also print tokens and links. Anyone who has one can join.")
@stream_option
def command(
    *,
    ledger: Place,
    concurrency: int,
    attempts: int,
    rate: int | None,
    until_empty: bool,
    show_links: bool,
    form: Format,
) -> None:
    """Process the grants that `provision --enqueue` or `defer_grants` put into the job queue of a PostgreSQL ledger.

    Any number of workers on any number of machines can share a queue; each member is granted access once. A grant that
    was turned away or could not be sent stays planned: enqueue it again. Each grant is printed on stdout as soon as its
    outcome is durable. Credentials are read from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or
    TGMEMBERSHIP_API_KEY_FILE.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # each printed row has its error
    place = server(ledger, "worker")
    policy = RetryPolicy(attempts=attempts)
    tg = session(max_connections=concurrency, retry=policy, **pace(place, rate))
    with streaming(form, columns(links=show_links), links=show_links) as out:
        work = Work(place, tg, concurrency, out, until_empty=until_empty, links=show_links)
        anyio.run(work.carry_out)
    work.problems.show()
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(work.counts.items())) or "no grants"
    note(f"Ended{f' early: {work.stopped}' if work.stopped else ''}: {counts}.")
    if work.put_back:
        note(f"The ledger failed for {len(work.put_back):,} of them. They are back in the queue: run the worker again.")
    raise SystemExit(_CODES[work.stopped] or (Exit.FAILED if work.put_back else Exit.OK))


@mutable
class Work:
    """One worker and the outcomes of its jobs."""

    place: Server
    session: Session
    concurrency: int
    out: Writer
    until_empty: bool
    links: bool
    counts: Counter[str] = field(factory=Counter[str])
    problems: Problems = field(factory=Problems)
    put_back: set[str] = field(factory=set[str])
    stopped: StopReason | None = None
    running: asyncio.Task[None] | None = None

    async def carry_out(self) -> None:
        """Run until stopped, or with `until_empty` until the queue is empty."""
        app = app_at(self.place)
        from tgmembership_async.ext.procrastinate import QUEUE, setup  # noqa: PLC0415 - an extra

        console = Console(stderr=True, highlight=False)
        async with (
            opened(self.place) as ledger,
            Granter(self.session, ledger) as granter,
            opened_queue(app, self.place),
        ):
            setup(app, granter, ended=self.ended)
            run = partial(app.run_worker_async, queues=[QUEUE], concurrency=self.concurrency)
            self.running = asyncio.create_task(run(wait=not self.until_empty, install_signal_handlers=False))
            with interruptible(lambda: console.print(_IN_FLIGHT, soft_wrap=True)):
                await asyncio.wait({self.running})
            self.stop()
            await asyncio.wait({self.running})
            if not self.running.cancelled():
                self.running.result()

    def stop(self) -> None:
        """Start no further job. Cancels once: a second cancellation would not wait for the grants in flight."""
        if self.running is not None and not self.running.done() and not self.running.cancelling():
            self.running.cancel()

    def ended(self, request: GrantRequest, end: Grant | TGMembershipError) -> None:
        """Print the outcome of a request, and stop if all further jobs would fail too."""
        row = fields_of(end, links=self.links) if isinstance(end, Grant) else _fields_after(request, end)
        self.counts[row["status"]] += 1
        error = end.error if isinstance(end, Grant) else end
        if error is not None:
            self.problems.add(request.ref, row["status"], error)
        self.out.row(row)
        if isinstance(end, StorageError):
            self.put_back.add(request.ref)
        else:
            self.put_back.discard(request.ref)
        if isinstance(end, Unauthorized):
            self.stopped = StopReason.CREDENTIALS
        elif row["status"] == GrantStatus.PLANNED and self.session.retry_tokens < COST_TRANSIENT:
            self.stopped = self.stopped or StopReason.BUDGET
        if self.stopped is not None:
            self.stop()


def _fields_after(request: GrantRequest, error: TGMembershipError) -> dict[str, Any]:
    """Return the row of a request whose grant raised `error`."""
    held = error.grant if isinstance(error, GrantHeld) else None
    if isinstance(held, Grant):
        return fields_of(evolve(held, error=error), links=False)
    status = settlement_of(error).status.value if isinstance(error, CallError) else FAILED
    fields = {"ref": request.ref, "member_id": request.member_id, "plan_id": request.plan_id}
    return fields | {"status": CONFLICT if isinstance(error, RefConflict) else status, "error": str(error)}
