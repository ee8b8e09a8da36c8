"""Shared parts of the `grants` commands: options, opening a ledger without owning it, batches that share a commit."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import click

from tgmembership_async.cli import time_arguments
from tgmembership_async.cli.ledger_option import Place, check_there, ledger_option, opened
from tgmembership_async.errors import TGMembershipError, UsageError
from tgmembership_async.grants.ledger import Ledger

A = TypeVar("A")
T = TypeVar("T")
_TOGETHER: Final = 64
grants_ledger: Final = ledger_option("Ledger file or server.", exists=True, required=True)
since_option: Final = click.option(
    "--since",
    metavar="WHEN",
    callback=time_arguments.option,
    help="Only grants changed since, for example 2026-11-01 or 12h. [default: all]",
)


def with_ledger(ledger: Place, work: Callable[[Ledger], Coroutine[Any, Any, T]]) -> T:
    """Open the ledger without owning it, run `work` on it and return the result."""
    check_there(ledger)

    async def run_it() -> T:
        async with opened(ledger, owner=False) as rows:
            return await work(rows)

    return anyio.run(run_it)


def recover_dead_owner(ledger: Place) -> None:
    """Open a ledger without an owner once as its owner, so that grants that a dead owner was sending become unknown."""

    async def own() -> None:
        async with opened(ledger):
            pass

    if isinstance(ledger, Path) and ledger.stat().st_size:  # an owner would create a ledger in an empty file
        with suppress(UsageError):
            anyio.run(own)


async def each(
    items: Iterable[A], step: Callable[[A], Awaitable[T]]
) -> AsyncGenerator[tuple[A, T | TGMembershipError]]:
    """Call `step` with each item, concurrently in batches that share a commit; yield results and errors in order."""
    left = iter(items)
    while some := list(islice(left, _TOGETHER)):
        ends: dict[int, T | TGMembershipError] = {}

        async def take(number: int, item: A, ends: dict[int, T | TGMembershipError] = ends) -> None:
            try:
                ends[number] = await step(item)
            except TGMembershipError as error:
                ends[number] = error

        async with anyio.create_task_group() as group:
            for number, item in enumerate(some):
                group.start_soon(take, number, item)
        for number, item in enumerate(some):
            yield item, ends[number]
