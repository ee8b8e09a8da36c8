"""What one sees of the demo: a few lines at the start, and the books at the end."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tgmembership_async.cli.demo.audit import Comparison


def announce(console: Console, url: str, members: int, fault_rate: float, kills: int) -> None:
    """Say what is about to happen."""
    console.print(f"A fake TGmembership listens on {url}.")
    console.print(f"{members:,} members to grant; each kind of fault strikes {fault_rate:.0%} of the requests.")
    if kills:
        console.print(f"`tgmembership provision` does it, and is killed {kills:,} times on the way.")


def show(
    console: Console, found: Comparison, struck: Sequence[Sequence[str]], *, seconds: float, total: int, kills: int
) -> None:
    """Lay the books open. `struck` holds, for each request, the faults it suffered."""
    hit = sum(bool(labels) for labels in struck)
    killed = f", and the worker was killed {kills:,} times" if kills else ""
    console.print(f"\nOn the way, {hit:,} of {len(struck):,} requests were struck{killed}:", soft_wrap=True)
    console.print(_faults(Counter(label for labels in struck for label in labels)))
    console.print(_books(found))
    early = f" Ctrl-C came before the other {total - found.rows:,}." if found.rows < total else ""
    console.print(f"{found.rows:,} members in {seconds:.1f} s.{early}")
    if found.really_granted:
        console.print(f"Blind retries would have granted [yellow]{found.really_granted:,}[/] of them twice.")
    console.print(
        "[green]The ledger was right about every one of them.[/]" if found.holds else "[red]The books do not agree.[/]"
    )


def _books(found: Comparison) -> Table:
    table = Table("", box=box.SIMPLE_HEAD)
    table.add_column("the ledger says", justify="right")
    table.add_column("the service's audit says")
    not_granted = f"{found.granted_unawares:,} granted"
    table.add_row("[green]granted", f"{found.granted:,}", f"{found.granted - found.granted_in_vain:,} granted")
    table.add_row("[red]refused", f"{found.refused:,}", not_granted)
    if found.not_done:
        table.add_row("[cyan]not done, safe to repeat", f"{found.not_done:,}", not_granted)
    unheard = found.unknown - found.really_granted
    table.add_row("[yellow]unknown", f"{found.unknown:,}", f"{found.really_granted:,} granted, {unheard:,} not")
    for name, count in ("granted twice", found.granted_twice), ("lost", found.lost):
        table.add_row(f"[bold]{name}", "", f"[bold {'red' if count else 'green'}]{count:,}")
    return table


def _faults(struck: Counter[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    cells = [f"{count:>5,} x {label}" for label, count in sorted(struck.items())]
    for left, right in zip(cells[::2], [*cells[1::2], ""], strict=False):
        table.add_row(left, right)
    return table
