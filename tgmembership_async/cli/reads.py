"""The commands that only read from the service, generated from a table."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import anyio
import attrs
import click

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.help_pages import examples
from tgmembership_async.cli.output import Format, format_option, write_one, writing
from tgmembership_async.cli.rows import columns_of, row_of
from tgmembership_async.session import Session
from tgmembership_async.values.models import PaymentMethodUsage, Plan, PlanPerformance
from tgmembership_async.values.money import Money


@attrs.frozen
class Read:
    """One command: the method to call, the model of its rows (None: a single object), its help and examples.

    `parameter` is the filter that the method accepts.
    """

    method: Callable[..., Awaitable[Any]]
    model: type[Any] | None
    help: str
    examples: Sequence[str]
    parameter: str | None = None
    rows: Callable[[Any], Sequence[Any]] = list


_READS: Final[Mapping[str, Read]] = {
    "orders": Read(
        Session.count_orders,
        None,
        "Show the number of orders.\n\n`breakdown` has the other counts of the reply.",
        ("orders", "orders --format json"),
    ),
    "payment-methods": Read(
        Session.most_popular_payment_methods,
        PaymentMethodUsage,
        "Show the number of orders per payment method.",
        ("payment-methods", "payment-methods --format csv > methods.csv"),
    ),
    "performance": Read(
        Session.plans_performance,
        PlanPerformance,
        "Show orders and revenue per plan.",
        ("performance", "performance --format csv > performance.csv"),
    ),
    "plans": Read(
        Session.get_plans,
        Plan,
        "List the plans.",
        ("plans", "plans --plan-id 1 --format json"),
        "plan_id",
    ),
    "revenue": Read(
        Session.get_revenue,
        Money,
        "Show the revenue per currency.",
        ("revenue", "revenue --format json"),
        rows=attrgetter("amounts"),
    ),
    "users": Read(
        Session.count_users,
        None,
        "Show the number of users.\n\n`breakdown` has the other counts of the reply.",
        ("users", "users --format json"),
    ),
}


def _command(name: str, read: Read) -> click.Command:
    def run(form: Format, **filters: int | None) -> None:
        result = anyio.run(_call, read, [value for value in filters.values() if value is not None])
        if read.model is None:
            write_one(form, row_of(result))
            return
        with writing(form, columns_of(read.model)) as out:
            for one in read.rows(result):
                out.row(row_of(one))

    made = click.command(name, help=read.help, epilog=examples(*read.examples))(format_option(run))
    if read.parameter is not None:
        wanted = read.parameter.replace("_", "-")
        option = click.Option(
            [f"--{wanted}"], type=click.IntRange(1), help=f"Show only this {wanted.removesuffix('-id')}."
        )
        made.params.insert(0, option)
    return made


async def _call(read: Read, filters: Sequence[int]) -> Any:
    async with session() as tg:
        return await read.method(tg, *filters)


commands: Final[Mapping[str, click.Command]] = {name: _command(name, read) for name, read in _READS.items()}
