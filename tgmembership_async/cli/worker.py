"""`tgmembership worker`: carry out the grants that wait in the queue, on as many machines as you like."""

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
from tgmembership_async.cli.ledger_option import Place, Server, ledger_option, opened, pace, rate_option, server
from tgmembership_async.cli.output import Format, Writer, note, stream_option, writing
from tgmembership_async.cli.queue import app_at, opened_queue
from tgmembership_async.cli.signals import interruptible
from tgmembership_async.errors import CallError, GrantHeld, RefConflict, TGMembershipError, Unauthorized
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

Let something start it again when it ends, systemd or your cluster. Kill it whenever you must: what it was sending
becomes unknown, and waits for a decision: tgmembership grants list --status unknown

\b
Exit code:
  0    it was stopped, or the queue is empty
  1    the service, or the way to it, is failing, or the database: the rest waits in the queue
  2    wrong use
  5    the credentials were rejected; the rest waits in the queue
"""
FAILED: Final = "failed"
"""Stands for the status where the ledger itself failed, and the row is as it was."""
_IN_FLIGHT: Final = "Finishing what is in flight, and beginning nothing else. Ctrl-C again ends at once."
_CODES: Final = {None: Exit.OK, StopReason.BUDGET: Exit.FAILED, StopReason.CREDENTIALS: Exit.CREDENTIALS}


@click.command("worker", epilog=_EPILOG)
@ledger_option("The server that has the ledger and the queue.", required=True)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Grant so many at a time."
)
@click.option(
    "--attempts", type=click.IntRange(1), default=4, show_default=True, help="Send so often while nothing was done."
)
@rate_option
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
@click.option("--show-links", is_flag=True, help="Print tokens and links too: whoever reads one may join.")
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
    """Carry out what `provision --enqueue` or `defer_grants` put into the queue of a PostgreSQL server.

    Run as many as you like, on as many machines: each member is granted once. What is turned away or cannot be sent is
    planned still; enqueue it again. The credentials come from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or
    TGMEMBERSHIP_API_KEY_FILE. Each member is a line of JSON on stdout as soon as the outcome is durable.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # each line has its error already
    place = server(ledger, "worker")
    policy = RetryPolicy(attempts=attempts)
    tg = session(max_connections=concurrency, retry=policy, **pace(place, rate))
    with writing(form, columns(links=show_links)) as out:
        work = Work(place, tg, concurrency, out, until_empty=until_empty, links=show_links)
        anyio.run(work.carry_out)
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(work.counts.items())) or "nothing to do"
    note(f"Ended{f' early: {work.stopped}' if work.stopped else ''}: {told}.")
    raise SystemExit(_CODES[work.stopped])


@mutable
class Work:
    """One worker, and what came of its jobs."""

    place: Server
    session: Session
    concurrency: int
    out: Writer
    until_empty: bool
    links: bool
    counts: Counter[str] = field(factory=Counter[str])
    stopped: StopReason | None = None
    running: asyncio.Task[None] | None = None

    async def carry_out(self) -> None:
        """Run until stopped, or until the queue is empty."""
        app = app_at(self.place)
        from tgmembership_async.ext.procrastinate import QUEUE, setup  # noqa: PLC0415 - an extra

        console = Console(stderr=True, highlight=False)
        async with opened(self.place) as ledger, Granter(self.session, ledger) as granter, opened_queue(app):
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
        """Begin nothing more; a second cancellation would not wait for what is in flight."""
        if self.running is not None and not self.running.done() and not self.running.cancelling():
            self.running.cancel()

    def ended(self, request: GrantRequest, end: Grant | TGMembershipError) -> None:
        """Tell what became of a request, and stop where going on would only turn jobs into failures."""
        told = fields_of(end, links=self.links) if isinstance(end, Grant) else _fields_after(request, end)
        self.counts[told["status"]] += 1
        self.out.row(told)
        if isinstance(end, Unauthorized):
            self.stopped = StopReason.CREDENTIALS
        elif told["status"] == GrantStatus.PLANNED and self.session.retry_tokens < COST_TRANSIENT:
            self.stopped = self.stopped or StopReason.BUDGET
        if self.stopped is not None:
            self.stop()


def _fields_after(request: GrantRequest, error: TGMembershipError) -> dict[str, Any]:
    """Return what is told of a request that raised."""
    held = error.grant if isinstance(error, GrantHeld) else None
    if isinstance(held, Grant):
        return fields_of(evolve(held, error=error), links=False)
    status = settlement_of(error).status.value if isinstance(error, CallError) else FAILED
    fields = {"ref": request.ref, "member_id": request.member_id, "plan_id": request.plan_id}
    return fields | {"status": CONFLICT if isinstance(error, RefConflict) else status, "error": str(error)}
