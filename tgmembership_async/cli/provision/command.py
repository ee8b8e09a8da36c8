"""`tgmembership provision`: grant access to the members in a file, exactly once each."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn

import anyio
import click
from attrs import field, mutable
from rich.console import Console

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.default_ledger import ledger_for
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_lines import CONFLICT, columns, fields_of
from tgmembership_async.cli.grant_options import attempts_option, concurrency_option
from tgmembership_async.cli.ledger_option import (
    Place,
    Server,
    ledger_option,
    only_note_restores,
    opened,
    pace,
    rate_option,
    server,
)
from tgmembership_async.cli.output import Format, Writer, hint, note, stream_option, streaming, write_one, writing
from tgmembership_async.cli.problems import Problems
from tgmembership_async.cli.provision.dry_run import COLUMNS, counts_in_words, write_dry_run
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.cli.provision.reading import Reading, members_path, named, reading_options
from tgmembership_async.cli.provision.result import check_result, result_option, write_result
from tgmembership_async.cli.provision.summary import exit_code, progress, sentences
from tgmembership_async.cli.signals import interruptible
from tgmembership_async.errors import RefConflict, TGMembershipError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.importing.members import InvalidRow, MemberRow, Members, SkippedRow, read_members
from tgmembership_async.grants.model import GrantRequest
from tgmembership_async.grants.provisioning import Run, Summary
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.session import Session

_EPILOG: Final = """
\b
Examples:
  tgmembership provision members.csv --plan-id 1
  tgmembership provision members.xlsx --plan-id 1 --dry-run
  tgmembership provision members.xlsx --plan-id 1 --show-links --result links.xlsx
  tgmembership provision export.csv --column member_id="Telegram-ID" --column ref="Order no." --delimiter ";"
  tgmembership provision members.csv --ledger grants.db > granted.jsonl
  tgmembership provision members.csv --ledger postgresql://shop@db/shop
  tgmembership grants list --status unknown --ledger grants.db

\b
members.csv:
  ref,member_id,plan_id,note
  pi_3Nf,4200,1,chat 77

\b
members.jsonl:
  {"ref": "pi_3Nf", "member_id": 4200, "plan_id": 1}
  {"ref": "pi_3Ng", "member_id": 4201}

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
_REASONS: Final = 10
_IN_FLIGHT: Final = "Stopping: waiting for the grants in flight. Press Ctrl-C again to end at once."


@click.command("provision", epilog=_EPILOG)
@click.argument("file", type=members_path)
@click.option(
    "--plan-id",
    type=click.IntRange(1),
    help="Plan of rows without a plan_id.  [default: such rows are invalid]",
)
@reading_options
@click.option("--dry-run", is_flag=True, help="Print what would be done for each member; send nothing.")
@ledger_option(
    "SQLite file, or PostgreSQL database that several machines can share.  [default: one file for each bot and "
    "service, in your user data folder]"
)
@click.option(
    "--enqueue",
    is_flag=True,
    help="Put the grants into the job queue of the PostgreSQL ledger for `worker`; send nothing.",
)
@concurrency_option("grants")
@attempts_option
@click.option(
    "--backoff",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Initial delay in seconds after a 429 without Retry-After.",
)
@click.option(
    "--regrant",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Maximum number of times that a grant with an unknown outcome is sent again without a decision. Each time, "
    "the member may get a second token.",
)
@rate_option
@click.option("--show-links", is_flag=True, help="Also print tokens and links. Anyone who has one can join.")
@result_option
@stream_option
def command(
    *,
    file: Path,
    plan_id: int | None,
    reading: Reading,
    dry_run: bool,
    ledger: Place | None,
    enqueue: bool,
    concurrency: int,
    attempts: int,
    backoff: float,
    regrant: int,
    rate: int | None,
    show_links: bool,
    result: Path | None,
    form: Format,
) -> None:
    """Grant access to each member in FILE, exactly once per ref.

    FILE is CSV, JSON lines or an Excel workbook (.xlsx), or - for stdin, with the columns ref and member_id, and
    optionally plan_id, note and paid_at; `ref` is your own id of the payment. Other spellings of these headings are
    recognised, and so are exports of Stripe, Patreon, Memberful and Telegram; stderr shows how FILE was read. All rows
    are validated before anything is sent. It is safe to run the command again after a crash or Ctrl-C, or with
    additional rows, and FILE may have any name: the grants are recorded in the ledger, which is named on stderr. Each
    grant is printed on stdout as soon as its outcome is durable; progress and summary go to stderr. With a ledger on a
    PostgreSQL server, the command can run on several machines at once, with the same or different files.
    Credentials are read from TGMEMBERSHIP_BOT_ID, and TGMEMBERSHIP_API_KEY or TGMEMBERSHIP_API_KEY_FILE.
    """
    only_note_restores()  # each printed row has its error
    if sum((dry_run, enqueue, result is not None)) > 1:
        msg = "--dry-run, --enqueue and --result exclude each other"
        raise UsageError(msg)
    file = click.get_current_context().with_resource(named(file))
    members = read_members(file, plan_id=plan_id, **reading)
    check_result(result, file)
    total = _check(file, members)
    if enqueue:
        _enqueue(server(ledger, "--enqueue"), _requests(file, members), total, form)
        return
    where = ledger_for(file, ledger, make=not dry_run)
    if dry_run:
        _dry_run(where, members, form)
    policy = RetryPolicy(attempts=attempts, throttled_base=backoff)
    job = Job(
        session=session(max_connections=concurrency, retry=policy, **pace(where, rate)),
        ledger=where,
        total=total,
        concurrency=concurrency,
        regrant=regrant,
        links=show_links,
    )
    began = monotonic()
    problem: TGMembershipError | None = None
    with streaming(form, columns(links=show_links), links=show_links) as out:
        try:
            anyio.run(job.carry_out, _requests(file, members), out)
        except KeyboardInterrupt:
            job.interrupted = True
        except TGMembershipError as error:
            if not job.begun:
                raise
            problem = error
    job.problems.show()
    for sentence in sentences(job.summary, job.total, monotonic() - began, job.ledger, links=show_links):
        note(sentence)
    anyio.run(partial(write_result, result, members, where, links=show_links))
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


def _dry_run(where: Place, members: Members, form: Format) -> NoReturn:
    with writing(form, COLUMNS) as out:
        counts = anyio.run(write_dry_run, where, members.rows(), out)
    note(counts_in_words(counts))
    raise SystemExit(Exit.REFUSED if counts[CONFLICT] else Exit.OK)


def _check(file: Path, members: Members) -> int:
    """Print how the file is read; return the number of its members, or print every invalid row and exit."""
    good = bad = 0
    skipped: Counter[str] = Counter()
    note(f"Read {members}.")
    for row in members.rows():
        match row:
            case InvalidRow():
                note(f"{file}:{row.line}: {row.reason}")
                bad += 1
            case SkippedRow():
                skipped[row.reason if row.reason in skipped or len(skipped) < _REASONS else "other"] += 1
            case MemberRow():
                good += 1
    if skipped:
        reasons = ", ".join(f"{count:,} because {reason}" for reason, count in skipped.most_common())
        note(f"{skipped.total():,} rows are left out: {reasons}.")
    if bad or not good:
        note(f"Nothing was sent. Invalid rows: {bad:,}. Valid rows: {good:,}.")
        raise SystemExit(Exit.WRONG_USE)
    return good


def _requests(file: Path, members: Members) -> Iterator[GrantRequest]:
    for row in members.unchecked_rows():
        if isinstance(row, InvalidRow):
            msg = f"{file} changed while it was read; line {row.line}: {row.reason}"
            raise UsageError(msg)
        if isinstance(row, MemberRow):
            yield row.request


@mutable
class Job:
    """One run over a file and its outcomes."""

    session: Session
    ledger: Place
    total: int
    concurrency: int
    regrant: int
    links: bool
    begun: bool = False
    interrupted: bool = False
    summary: Summary = field(factory=Summary)
    statuses: set[str] = field(factory=set[str])
    problems: Problems = field(factory=Problems)

    async def carry_out(self, requests: Iterator[GrantRequest], out: Writer) -> None:
        """Send all grants and write a row for each; on a signal, finish the grants in flight and end."""
        console = Console(stderr=True, highlight=False)
        # The Granter closes the session, and with it its connections, before it waits for answers to be stored.
        async with (
            opened(self.ledger) as ledger,
            Granter(self.session, ledger, regrant_limit=self.regrant) as granter,
        ):
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
            if grant.error is not None:
                self.problems.add(grant.ref, fields["status"], grant.error)
            out.row(fields)
            if bar.shown:
                bar.show(*progress(run.summary))
