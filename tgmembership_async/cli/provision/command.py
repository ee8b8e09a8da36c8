"""`tgmembership provision`: grant access to the members in a file, exactly once each."""

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
from tgmembership_async.cli.default_ledger import ledger_for
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import columns, fields_of
from tgmembership_async.cli.grant_options import attempts_option, concurrency_option
from tgmembership_async.cli.ledger_option import Place, Server, ledger_option, opened, pace, rate_option, server
from tgmembership_async.cli.output import Format, Writer, hint, note, stream_option, write_one, writing
from tgmembership_async.cli.provision.members import Problem, open_members, read_members, without_conflicts
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.cli.provision.summary import exit_code, progress, sentences
from tgmembership_async.cli.signals import interruptible
from tgmembership_async.errors import RefConflict, TGMembershipError, UsageError
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
  tgmembership grants list --status unknown --ledger grants.db

\b
members.csv:                          members.jsonl:
  ref,member_id,plan_id,note            {"ref": "pi_3Nf", "member_id": 4200, "plan_id": 1}
  pi_3Nf,4200,1,chat 77                 {"ref": "pi_3Ng", "member_id": 4201}

\b
Exit code, the highest that applies:
  0    all members are granted access
  1    some grants are still planned, or the ledger failed: run the command again
  2    wrong usage or invalid rows; nothing was sent
  3    some grants were refused, or their ref belongs to another plan or member
  4    some outcomes are unknown and wait for a decision
  5    the credentials were rejected
  130  interrupted: run the command again
"""
_IN_FLIGHT: Final = "Stopping: waiting for the grants in flight. Press Ctrl-C again to end at once."


@click.command("provision", epilog=_EPILOG)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plan-id", type=click.IntRange(1), help="Plan of rows without a plan_id.")
@ledger_option(
    "Ledger file, or a server that several machines can share.  [default: one for each bot and service, in your user "
    "data folder]"
)
@click.option(
    "--enqueue",
    is_flag=True,
    help="Only put the grants into the job queue of the ledger's server; `worker` sends them.",
)
@concurrency_option
@attempts_option
@click.option(
    "--backoff",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Initial delay in seconds after a 429 without Retry-After.",
)
@rate_option
@click.option("--show-links", is_flag=True, help="Also print tokens and links. Anyone who has one can join.")
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
    """Grant access to each member in FILE, exactly once per ref.

    FILE is CSV with the header ref,member_id[,plan_id][,note], or JSON lines; `ref` is your own id of the payment.
    All rows are validated before anything is sent. It is safe to run the command again after a crash or Ctrl-C, or
    with additional rows, and FILE may have any name: what was granted is recorded in the ledger, which is named on
    stderr. Each grant is printed on stdout as soon as its outcome is durable; progress and summary go to stderr. With a
    ledger on a PostgreSQL server, the command can run on several machines at once, with the same or different files.
    Credentials are read from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE.
    """
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # each printed row has its error
    total = _check(file, plan_id)
    if enqueue:
        _enqueue(server(ledger, "--enqueue"), _requests(file, plan_id), total, form)
        return
    where = ledger_for(file, ledger)
    policy = RetryPolicy(attempts=attempts, throttled_base=backoff)
    job = Job(
        session=session(max_connections=concurrency, retry=policy, **pace(where, rate)),
        ledger=where,
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
    raise SystemExit(Exit.INTERRUPTED if job.interrupted else exit_code(job.summary, job.statuses))


def _enqueue(place: Server, requests: Iterator[GrantRequest], total: int, form: Format) -> None:
    from tgmembership_async.cli.queue import enqueue  # noqa: PLC0415 - an extra, and slow to load

    conflicts = 0

    def conflicting(_: GrantRequest, conflict: RefConflict) -> None:
        nonlocal conflicts
        conflicts += 1
        note(str(conflict))

    new = anyio.run(enqueue, place, requests, conflicting)
    write_one(form, {"members": total, "enqueued": new, "conflicts": conflicts})
    note(f"{new:,} of {total:,} members are enqueued; {total - new - conflicts:,} were waiting in the queue already.")
    if conflicts:
        note(f"{conflicts:,} rows name a ref that waits for another plan or member: give them refs of their own.")
    note(f"Process them: {hint('worker', '--ledger', place)}")
    raise SystemExit(Exit.REFUSED if conflicts else Exit.OK)


def _check(file: Path, plan_id: int | None) -> int:
    """Return the number of members in the file, or report every invalid row and exit."""
    if not file.is_file():
        msg = f"{file} must be a regular file, because it is read twice"
        raise UsageError(msg)
    good = bad = 0
    with open_members(file) as lines:
        for found in without_conflicts(read_members(lines, plan_id)):
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
                msg = f"{file} changed while it was read; line {found.line}: {found.reason}"
                raise UsageError(msg)
            yield found.request


@mutable
class Job:
    """One run over a file and its outcomes."""

    session: Session
    ledger: Place
    total: int
    concurrency: int
    links: bool
    begun: bool = False
    interrupted: bool = False
    summary: Summary = field(factory=Summary)
    statuses: set[str] = field(factory=set[str])

    async def carry_out(self, requests: Iterator[GrantRequest], out: Writer) -> None:
        """Send all grants and write a row for each; on a signal, finish the grants in flight and end."""
        console = Console(stderr=True, highlight=False)
        # The Granter closes the session, and with it its connections, before it waits for answers to be stored.
        async with opened(self.ledger) as ledger, Granter(self.session, ledger) as granter:
            self.begun = True
            run = granter.provision(requests, concurrency=self.concurrency)
            with Bar(console, self.total) as bar:
                try:
                    with interruptible(lambda: console.print(_IN_FLIGHT, soft_wrap=True)) as scope:
                        async with run:
                            await self._write(run, bar, out)
                    self.interrupted = scope.cancel_called
                    await self._write(run, bar, out)  # the grants in flight at the interruption
                finally:
                    self.summary = run.summary

    async def _write(self, run: Run, bar: Bar, out: Writer) -> None:
        async for grant in run:
            fields = fields_of(grant, links=self.links)
            self.statuses.add(fields["status"])
            out.row(fields)
            if bar.shown:
                bar.show(*progress(run.summary))
