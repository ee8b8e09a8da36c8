"""The commands that only read: each is a row of one table."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import anyio
import attrs
import click

from tgmembership_async.cli.credentials import session
from tgmembership_async.cli.output import Format, format_option, write_one, writing
from tgmembership_async.session import Session
from tgmembership_async.values.duration import Duration
from tgmembership_async.values.models import PaymentMethodUsage, Plan, PlanPerformance, Revenue, Subscriber
from tgmembership_async.values.money import Money


@attrs.frozen
class Read:
    """One command: what it asks, of which model its rows are (None: there is one thing, and no rows), and its help.

    `parameter` is the one filter that the method takes.
    """

    ask: Callable[..., Awaitable[Any]]
    model: type[Any] | None
    told: str
    examples: Sequence[str]
    parameter: str | None = None
    rows: Callable[[Any], Sequence[Any]] = list


def _amounts(revenue: Revenue) -> Sequence[Money]:
    return revenue.amounts


_READS: Final[Mapping[str, Read]] = {
    "orders": Read(
        Session.count_orders,
        None,
        "Count the orders.\n\nWhat else the service counts with them stands under `breakdown`.",
        ("orders", "orders --format json"),
    ),
    "payment-methods": Read(
        Session.most_popular_payment_methods,
        PaymentMethodUsage,
        "Show how often each payment method was used.",
        ("payment-methods", "payment-methods --format csv > methods.csv"),
    ),
    "performance": Read(
        Session.plans_performance,
        PlanPerformance,
        "Show what each plan sold.",
        ("performance", "performance --format csv > performance.csv"),
    ),
    "plans": Read(
        Session.get_plans,
        Plan,
        "List the plans, or the one with --plan-id.",
        ("plans", "plans --plan-id 1 --format json"),
        "plan_id",
    ),
    "revenue": Read(
        Session.get_revenue,
        Money,
        "Show what came in, by currency.",
        ("revenue", "revenue --format json"),
        rows=_amounts,
    ),
    "subscribers": Read(
        Session.get_subscribers,
        Subscriber,
        "List who has access to what, or the access of one Telegram user.\n\nTimes are in UTC.",
        ("subscribers --user-id 4200", "subscribers --format csv > subscribers.csv"),
        "user_id",
    ),
    "users": Read(
        Session.count_users,
        None,
        "Count the users.\n\nWhat else the service counts with them stands under `breakdown`.",
        ("users", "users --format json"),
    ),
}


def columns_of(model: type[Any]) -> tuple[str, ...]:
    """Return the fields of a model's row: money is an amount, and `currency` beside it."""
    names: list[str] = []
    for field in attrs.fields(model):
        names += [field.name, "currency"] if _is_money(field.type) else [field.name]
    return tuple(names)


def _is_money(annotation: object) -> bool:
    return annotation in (Money, Money | None)


def row_of(value: Any) -> dict[str, Any]:
    """Return a model as a row of exact, printable values."""
    row: dict[str, Any] = {}
    for field in attrs.fields(value.__class__):
        one = getattr(value, field.name)
        if _is_money(field.type):
            row |= {field.name: one and one.amount, "currency": one and one.currency}
        else:
            row[field.name] = _plain(one)
    return row


def _plain(value: object) -> object:
    if isinstance(value, Duration):
        return value.text
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return value


def _command(name: str, read: Read) -> click.Command:
    def run(form: Format, **given: int | None) -> None:
        found = anyio.run(_ask, read, [value for value in given.values() if value is not None])
        if read.model is None:
            write_one(form, row_of(found))
            return
        with writing(form, columns_of(read.model)) as out:
            for one in read.rows(found):
                out.row(row_of(one))

    made = click.command(name, help=read.told, epilog=_examples(*read.examples))(format_option(run))
    if read.parameter is not None:
        wanted = read.parameter.replace("_", "-")
        option = click.Option([f"--{wanted}"], type=click.IntRange(1), help=f"Only this {wanted.replace('-', ' ')}.")
        made.params.insert(0, option)
    return made


def _examples(*lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  tgmembership {line}" for line in lines)])


async def _ask(read: Read, given: Sequence[int]) -> Any:
    async with session() as tg:
        return await read.ask(tg, *given)


commands: Final[Mapping[str, click.Command]] = {name: _command(name, read) for name, read in _READS.items()}
