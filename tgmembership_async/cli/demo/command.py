"""`tgmembership demo`: run `provision` under injected faults and compare its ledger with the service's audit log."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Final

import anyio
import click
from rich.console import Console

from tgmembership_async.cli.demo.audit import Comparison, compare, recorded_of
from tgmembership_async.cli.demo.resolution import resolve_all
from tgmembership_async.cli.demo.run import Results, provision_arguments, run_workers
from tgmembership_async.cli.demo.storm import Storm
from tgmembership_async.cli.demo.view import announce, conclude, show, show_resolution
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.grant_options import concurrency_option
from tgmembership_async.cli.output import counted, note
from tgmembership_async.cli.provision.progress import Bar
from tgmembership_async.grants.importing.members import InvalidRow, MemberRow, read_members
from tgmembership_async.grants.model import Grant, GrantRequest
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.testing import FakeService, serve

FAULT_RATE: Final = 0.03
_PLAN_ID: Final = 1
_COUNTED: Final = ("granted", "refused", "unknown", "kills")


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
    help="File of members, as for `provision`.  [default: a sample of 1,000 members]",
)
@concurrency_option("grants")
@click.option(
    "--kills",
    type=click.IntRange(0, 20),
    default=4,
    show_default=True,
    help="Number of times that the `provision` process is killed and restarted.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of faults and kills: the same one gives the same result."
)
def command(*, source: Path | None, concurrency: int, kills: int, seed: int) -> None:
    """Run `provision` under injected faults and compare its ledger with the service's audit log.

    A fake service runs on a port of this machine. Each kind of fault affects 3% of the requests, half of them after the
    service granted access. The `provision` process is killed and restarted several times. Then the faults end, and each
    grant whose outcome is unknown is reconciled or decided, until every member has access or was refused. Exit
    code: 0 if so and the ledger matches the audit log, 1 if not, 2 for a file with invalid rows, 130 after Ctrl-C.
    """
    requests = _read(source)
    service = Storm(requests, fault_rate=FAULT_RATE, kills=kills, concurrency=concurrency, seed=seed)
    total = len({request.ref for request in requests})
    results = Results()
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    began, interrupted, left = monotonic(), False, 0
    with tempfile.TemporaryDirectory(prefix="tgmembership-demo-") as folder, serve(service) as server:
        members, ledger = Path(folder, "members"), Path(folder, "grants.db")
        members.write_bytes((source or _sample()).read_bytes())
        announce(out, server.url, total, FAULT_RATE, kills)
        with Bar(err, total, _COUNTED) as bar:
            changed = partial(_show_progress, bar, err, results, total)
            arguments = provision_arguments(members, ledger, _PLAN_ID, concurrency)
            try:
                run_workers(arguments, server.env(), results, service, changed)
            except KeyboardInterrupt:
                interrupted = True
        comparison = _compare(requests, ledger, service, interrupted=interrupted)
        show(out, comparison, [request.faults for request in service.requests], kills=results.kills)
        if not interrupted:
            service.clear_faults()
            resolution = anyio.run(resolve_all, service, ledger, server.url, concurrency)
            comparison = _compare(requests, ledger, service, interrupted=False)
            show_resolution(out, resolution)
            left = resolution.left
    conclude(out, comparison, total=total, seconds=monotonic() - began)
    raise SystemExit(Exit.INTERRUPTED if interrupted else Exit.OK if comparison.matches and not left else Exit.FAILED)


def _read(source: Path | None) -> list[GrantRequest]:
    requests: list[GrantRequest] = []
    bad = 0
    for found in read_members(_sample() if source is None else source, plan_id=_PLAN_ID).rows():
        if isinstance(found, InvalidRow):
            note(f"{source}:{found.line}: {found.reason}")
            bad += 1
        elif isinstance(found, MemberRow):
            requests.append(found.request)
    if bad or not requests:
        note(f"{counted(bad, 'invalid row')}, {len(requests):,} valid: nothing was sent.")
        raise SystemExit(Exit.WRONG_USE)
    return requests


def _sample() -> Path:
    """Return the sample file of the installed package, or of the checkout."""
    installed = Path(str(files("tgmembership_async.cli.demo") / "members.csv"))
    return installed if installed.is_file() else Path(__file__).parents[3] / "examples" / "members.csv"


def _show_progress(bar: Bar, console: Console, results: Results, total: int, killed_after: int | None) -> None:
    if killed_after is not None:
        console.print(
            f"[magenta]Killed `provision`[/] after {killed_after:,} of {counted(total, 'member')}; starting it again."
        )
    if bar.shown:
        bar.show(len(results.statuses), {**results.counts, "kills": results.kills})


async def _rows(path: Path) -> list[Grant]:
    async with SqliteLedger(path) as ledger:
        return [grant async for grant in ledger.grants()]


def _compare(requests: Iterable[GrantRequest], ledger: Path, service: FakeService, *, interrupted: bool) -> Comparison:
    rows = {grant.ref: grant for grant in (anyio.run(_rows, ledger) if ledger.exists() else [])}
    lost = 0 if interrupted else len({request.ref for request in requests} - rows.keys())
    recorded = (((grant.plan_id, grant.member_id), recorded_of(grant.status)) for grant in rows.values())
    return compare(recorded, Counter((grant.plan_id, grant.member_id) for grant in service.audit), lost=lost)
