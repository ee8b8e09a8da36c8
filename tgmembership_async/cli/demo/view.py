"""Print the demo's settings at the start and its comparison at the end."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from tgmembership_async.cli.demo.audit import Comparison
from tgmembership_async.cli.demo.resolution import RULE, Resolution
from tgmembership_async.cli.output import counted

_WIDE: Final = 80
"""Columns of a terminal that has room for two columns of faults."""


def announce(console: Console, url: str, members: int, fault_rate: float, kills: int) -> None:
    """Print what the demo is going to do."""
    console.print(f"A fake TGmembership listens on {url}.")
    console.print(
        f"{counted(members, 'member')} to grant; each kind of fault affects {fault_rate:.0%} of the requests."
    )
    if kills:
        console.print(f"`tgmembership provision` runs, is killed up to {counted(kills, 'time')} and restarted.")


def show(console: Console, found: Comparison, faults: Sequence[Sequence[str]], *, kills: int) -> None:
    """Print the faults and the comparison. `faults` has, for each request, the faults that affected it."""
    counts = Counter(label for labels in faults for label in labels)
    affected = sum(bool(labels) for labels in faults)
    killed = f" `provision` was killed {counted(kills, 'time')}." if kills else ""
    console.print(
        f"\n{counted(counts.total(), 'fault')} affected {affected:,} of {counted(len(faults), 'request')}.{killed}"
    )
    console.print(_faults(counts, columns=2 if console.width >= _WIDE else 1))
    console.print(_comparison(found))
    if found.unknown_granted:
        console.print(f"Blind retries would have granted access twice to [yellow]{found.unknown_granted:,}[/] of them.")


def show_resolution(console: Console, found: Resolution) -> None:
    """Print how the held grants were settled, and what became of all members."""
    console.print("\nThe faults end, and each customer who was granted joins.")
    console.print(
        f"Settled by `reconcile`: {found.settled:,}. It proves nothing in the first 5 minutes after an attempt."
    )
    console.print(f"Decided as granted: {found.decided:,}. Sent again: {found.sent_again:,}. The rule: {RULE}.")
    console.print(f"[bold]Inside: {found.inside:,}.[/] Refused: {found.refused.total():,}.")
    for reason, count in found.refused.most_common():
        console.print(f"  {count:,} x {reason}", markup=False)
    if found.left:
        console.print(f"[red]Neither inside nor refused: {found.left:,}.[/]")


def conclude(console: Console, found: Comparison, *, total: int, seconds: float) -> None:
    """Print the verdict."""
    early = f" Interrupted before the other {total - found.rows:,}." if found.rows < total else ""
    console.print(f"{counted(found.rows, 'member')} in {seconds:.1f} s.{early}")
    for name, count, meaning in (
        ("Granted twice", found.granted_twice, "grants in the service's audit log beyond one for each payment"),
        ("Lost", found.lost, "members of the file without a row in the ledger"),
    ):
        console.print(f"{name}: [bold {'red' if count else 'green'}]{count:,}[/] ({meaning}).")
    if found.matches:
        console.print("[green]The ledger matches the service's audit log for every member.[/]")
    else:
        console.print("[red]The ledger does not match the service's audit log.[/]")


def _comparison(found: Comparison) -> Table:
    table = Table("", box=box.SIMPLE_HEAD)
    table.add_column("ledger", justify="right")
    table.add_column("audit log of the service")
    not_granted = f"{found.granted_unrecorded:,} granted"
    table.add_row("[green]granted", f"{found.granted:,}", f"{found.granted - found.granted_missing:,} granted")
    table.add_row("[red]refused", f"{found.refused:,}", not_granted)
    if found.not_done:
        table.add_row("[cyan]not done, safe to repeat", f"{found.not_done:,}", not_granted)
    unknown_not = found.unknown - found.unknown_granted
    table.add_row("[yellow]unknown", f"{found.unknown:,}", f"{found.unknown_granted:,} granted, {unknown_not:,} not")
    return table


def _faults(faults: Counter[str], *, columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    cells = [f"{count:>5,} x {label}" for label, count in sorted(faults.items())]
    for first in range(0, len(cells), columns):
        table.add_row(*cells[first : first + columns])
    return table
