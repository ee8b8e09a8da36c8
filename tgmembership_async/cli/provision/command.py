"""`tgmembership provision`: grant access to the members of a file, once each, however often it is run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
import click
from attrs import field, mutable
from rich.console import Console

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import columns, fields_of
from tgmembership_async.cli.ledger_option import Place, Server, ledger_option, opened, pace, rate_option, server
from tgmembership_async.cli.output import Format, Writer, hint, note, stream_option, write_one, writing
from tgmembership_async.cli.provision.members import Problem, open_members, read_members
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.cli.provision.summary import exit_code, progress, sentences
from tgmembership_async.cli.signals import interruptible
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import GrantRequest
from tgmembership_async.grants.provisioning import Run, Summary
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.session import Session

_EPILOG: Final = """
\b
Examples:
  tgmembership provision members.csv --plan-id 1
  tgmembership provision members.csv --ledger grants.db > granted.jsonl
  tgmembership provision members.csv --ledger postgresql://shop@db/shop
  tgmembership grants list --status unknown --ledger members.csv.grants.db

\b
members.csv:                          members.jsonl:
  ref,member_id,plan_id,note            {"ref": "pi_3Nf", "member_id": 4200, "plan_id": 1}
  pi_3Nf,4200,1,chat 77                 {"ref": "pi_3Ng", "member_id": 4201}

\b
Exit code, the highest that applies:
  0    every member is granted
  1    some are still planned, or the ledger failed: run it again
  2    wrong use or bad rows; nothing was sent
  3    some were refused, or their ref stands for another plan or member
  4    some outcomes are unknown and wait for a decision
  5    the credentials were rejected
  130  interrupted; run it again
"""
_IN_FLIGHT: Final = "Finishing what is in flight, and beginning nothing else. Ctrl-C again ends at once."


@click.command("provision", epilog=_EPILOG)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plan-id", type=click.IntRange(1), help="Grant this plan where a row names none.")
@ledger_option("Keep what was granted there; several machines may share a server.  [default: FILE.grants.db]")
@click.option("--enqueue", is_flag=True, help="Only enqueue the members on the ledger's server: see `worker`.")
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Grant so many at a time."
)
@click.option(
    "--attempts", type=click.IntRange(1), default=4, show_default=True, help="Send so often while nothing was done."
)
@click.option(
    "--backoff",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Wait so many seconds at first after a 429 that tells no time.",
)
@rate_option
@click.option("--show-links", is_flag=True, help="Print tokens and links too: whoever reads one may join.")
@stream_option
def command(
    *,
    file: Path,
    plan_id: int | None,
    ledger: Place | None,
    enqueue: bool,
    concurrency: int,
    attempts: int,
    backoff: float,
    rate: int | None,
    show_links: bool,
    form: Format,
) -> None:
    """Grant access to each member in FILE, exactly once: run it again after a crash, a Ctrl-C, or for more rows.

    FILE is CSV with the header ref,member_id[,plan_id][,note], or JSON lines; `ref` is your own id of the payment.
    All rows are checked before anything is sent. The credentials come from TGMEMBERSHIP_BOT_ID, and
    TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE. Each member is a line of JSON on stdout as soon as the outcome is
    durable; progress and summary go to stderr. On one PostgreSQL server it may run on several machines at once, with
    the same FILE or with others: whoever comes to a member first grants it, and the others tell what came of it.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # each line has its error already
    total = _check(file, plan_id)
    if enqueue:
        _enqueue(server(ledger, "--enqueue"), _requests(file, plan_id), total, form)
        return
    policy = RetryPolicy(attempts=attempts, throttled_base=backoff)
    job = Job(
        session=session(max_connections=concurrency, retry=policy, **pace(ledger, rate)),
        ledger=ledger or file.with_name(f"{file.name}.grants.db"),
        total=total,
        concurrency=concurrency,
        links=show_links,
    )
    began = monotonic()
    problem: TGMembershipError | None = None
    with writing(form, columns(links=show_links)) as out:
        try:
            anyio.run(job.carry_out, _requests(file, plan_id), out)
        except KeyboardInterrupt:
            job.interrupted = True
        except TGMembershipError as error:
            if not job.begun:
                raise
            problem = error
    for sentence in sentences(job.summary, job.total, monotonic() - began, job.ledger, links=show_links):
        note(sentence)
    if problem is not None:
        raise problem
    raise SystemExit(Exit.INTERRUPTED if job.interrupted else exit_code(job.summary, job.told))


def _enqueue(place: Server, requests: Iterator[GrantRequest], total: int, form: Format) -> None:
    from tgmembership_async.cli.queue import enqueue  # noqa: PLC0415 - an extra, and slow to load

    new = anyio.run(enqueue, place, requests)
    write_one(form, {"members": total, "enqueued": new})
    note(f"{new:,} of {total:,} members are enqueued; the others were waiting in the queue already.")
    note(f"Carry them out: {hint('worker', '--ledger', place)}")


def _check(file: Path, plan_id: int | None) -> int:
    """Return how many members the file has, or report every bad row and exit."""
    if not file.is_file():
        msg = f"{file} is read twice, which only a regular file allows: save it to one first"
        raise UsageError(msg)
    good = bad = 0
    with open_members(file) as lines:
        for found in read_members(lines, plan_id):
            if isinstance(found, Problem):
                note(f"{file}:{found.line}: {found.reason}")
                bad += 1
            else:
                good += 1
    if bad or not good:
        note(f"{bad:,} bad rows, {good:,} good ones: nothing was sent.")
        raise SystemExit(Exit.WRONG_USE)
    return good


def _requests(file: Path, plan_id: int | None) -> Iterator[GrantRequest]:
    with open_members(file) as lines:
        for found in read_members(lines, plan_id):
            if isinstance(found, Problem):
                msg = f"{file} was changed while it was read; line {found.line}: {found.reason}"
                raise UsageError(msg)
            yield found.request


@mutable
class Job:
    """One run over a file, and what came of it."""

    session: Session
    ledger: Place
    total: int
    concurrency: int
    links: bool
    begun: bool = False
    interrupted: bool = False
    summary: Summary = field(factory=Summary)
    told: set[str] = field(factory=set[str])

    async def carry_out(self, requests: Iterator[GrantRequest], out: Writer) -> None:
        """Grant them all, write a row for each, and end early but in order when asked to."""
        console = Console(stderr=True, highlight=False)
        # The Granter closes the session, and with it its connections, before it waits for answers to be stored.
        async with opened(self.ledger) as ledger, Granter(self.session, ledger) as granter:
            self.begun = True
            run = granter.provision(requests, concurrency=self.concurrency)
            with Bar(console, self.total) as bar:
                try:
                    with interruptible(lambda: console.print(_IN_FLIGHT, soft_wrap=True)) as scope:
                        async with run:
                            await self._tell(run, bar, out)
                    self.interrupted = scope.cancel_called
                    await self._tell(run, bar, out)  # what was in flight when it was interrupted
                finally:
                    self.summary = run.summary

    async def _tell(self, run: Run, bar: Bar, out: Writer) -> None:
        async for grant in run:
            fields = fields_of(grant, links=self.links)
            self.told.add(fields["status"])
            out.row(fields)
            if bar.shown:
                bar.show(*progress(run.summary))
