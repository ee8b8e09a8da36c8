"""`tgmembership demo`: the evening job against a service and a machine that do their worst, and then the books."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import anyio
import click
from rich.console import Console

from tgmembership_async.cli.demo.audit import Comparison, belief_of, compare
from tgmembership_async.cli.demo.run import Books, carry_out, command_of
from tgmembership_async.cli.demo.view import announce, show
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.output import note
from tgmembership_async.cli.provision.members import Problem, open_members, read_members
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.grants.model import Grant, GrantRequest
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.testing import FakePlan, FakeService, serve
from tgmembership_async.testing.fake.faults import nasty
from tgmembership_async.testing.fake.values import SAMPLE_PLANS

FAULT_RATE: Final = 0.03
_PLAN_ID: Final = 1
_SEEN: Final = ("granted", "refused", "unknown", "kills")


_EPILOG: Final = """
\b
Examples:
  tgmembership demo
  tgmembership demo --members members.csv --kills 8 --seed 7
"""


@click.command("demo", epilog=_EPILOG)
@click.option(
    "--members",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file as `provision` takes it. [default: a thousand made-up members]",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Grant so many at a time."
)
@click.option("--kills", type=click.IntRange(0, 20), default=4, show_default=True, help="Kill the worker so often.")
@click.option("--seed", default=0, show_default=True, help="Draw faults, tokens and kills from this number.")
def command(*, source: Path | None, concurrency: int, kills: int, seed: int) -> None:
    """Grant a thousand members access to plans of a fake service that misbehaves, in a process that is killed.

    The service runs on a port of this machine; 3 % of the requests suffer each kind of fault, half of them after the
    member was granted. `tgmembership provision` does the work, is killed on the way and started again. At the end, its
    ledger is held against what the service did. Exit code: 0 if the ledger was right about everybody, 1 if not, 2 for
    a file with bad rows, 130 after Ctrl-C.
    """
    requests = _read(source)
    service = _service(requests, seed)
    total = len({request.ref for request in requests})
    books = Books()
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    began, interrupted = monotonic(), False
    with tempfile.TemporaryDirectory(prefix="tgmembership-demo-") as folder, serve(service) as server:
        members, ledger = Path(folder, "members"), Path(folder, "grants.db")
        members.write_bytes(_bytes_of(source))
        announce(out, server.url, total, FAULT_RATE, kills)
        with Bar(err, total, _SEEN) as bar:
            changed = partial(_changed, bar, err, books, total)
            arguments = command_of(members, ledger, _PLAN_ID, concurrency)
            try:
                carry_out(arguments, server.env(), books, _marks(total, kills, seed), changed)
            except KeyboardInterrupt:
                interrupted = True
        grants = anyio.run(_rows, ledger) if ledger.exists() else []
    comparison = _compare(requests, grants, service, interrupted=interrupted)
    struck = [request.faults for request in service.requests]
    show(out, comparison, struck, seconds=monotonic() - began, total=total, kills=books.kills)
    raise SystemExit(Exit.INTERRUPTED if interrupted else Exit.OK if comparison.holds else Exit.FAILED)


def _read(source: Path | None) -> list[GrantRequest]:
    requests: list[GrantRequest] = []
    bad = 0
    with open_members(_shipped() if source is None else source) as lines:
        for found in read_members(lines, _PLAN_ID):
            if isinstance(found, Problem):
                note(f"{source}:{found.line}: {found.reason}")
                bad += 1
            else:
                requests.append(found.request)
    if bad or not requests:
        note(f"{bad} bad rows, {len(requests)} good ones: nothing was sent.")
        raise SystemExit(Exit.WRONG_USE)
    return requests


def _bytes_of(source: Path | None) -> bytes:
    return (_shipped() if source is None else source).read_bytes()


def _shipped() -> Path:
    """Return the sample from inside the installed package, or from the checkout beside it."""
    installed = Path(str(files("tgmembership_async.cli.demo") / "members.csv"))
    return installed if installed.is_file() else Path(__file__).parents[3] / "examples" / "members.csv"


def _service(requests: Iterable[GrantRequest], seed: int) -> FakeService:
    """Make a service that has all plans of the file, and where one member in a hundred never talked to the bot."""
    known = {plan.plan_id for plan in SAMPLE_PLANS}
    named = sorted({request.plan_id for request in requests} - known)
    ids = sorted({request.member_id for request in requests if request.member_id is not None})
    return FakeService(
        plans=(*SAMPLE_PLANS, *(FakePlan(plan_id, f"Plan {plan_id}") for plan_id in named)),
        silent=Random(seed).sample(ids, len(ids) // 100),  # noqa: S311 - reproducible on purpose
        faults=nasty(FAULT_RATE),
        seed=seed,
    )


def _marks(total: int, kills: int, seed: int) -> list[int]:
    """Return after how many members to kill: spread over the run, and yet at random."""
    random = Random(seed)  # noqa: S311 - reproducible on purpose
    return sorted(max(1, int(total * (number + random.uniform(0.3, 0.9)) / (kills + 1))) for number in range(kills))


def _changed(bar: Bar, console: Console, books: Books, total: int, killed: bool) -> None:  # noqa: FBT001 - the only one
    done = len(books.statuses)
    if killed:
        console.print(f"[magenta]Killed the worker[/] with {done:,} of {total:,} done; another one takes over.")
    if bar.shown:
        bar.show(done, {**books.counts, "kills": books.kills})


async def _rows(path: Path) -> list[Grant]:
    async with SqliteLedger(path) as ledger:
        return [grant async for grant in ledger.grants()]


def _compare(
    requests: Iterable[GrantRequest], grants: Iterable[Grant], service: FakeService, *, interrupted: bool
) -> Comparison:
    rows = {grant.ref: grant for grant in grants}
    lost = 0 if interrupted else len({request.ref for request in requests} - rows.keys())
    beliefs = (((grant.plan_id, grant.member_id), belief_of(grant.status)) for grant in rows.values())
    return compare(beliefs, Counter((grant.plan_id, grant.member_id) for grant in service.audit), lost=lost)
