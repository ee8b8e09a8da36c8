"""`tgmembership fake`: the fake service, for as long as it is not interrupted."""

import threading
from random import Random
from typing import Final

import click

from tgmembership_async.cli.output import note
from tgmembership_async.testing import FakeService, serve
from tgmembership_async.testing.fake.faults import nasty

_EPILOG: Final = """
\b
Examples:
  tgmembership fake --port 8000 > fake.env &
  tgmembership --env-file fake.env plans
  tgmembership fake --fault-rate 0.03 --order-every 5
"""


@click.command("fake", epilog=_EPILOG)
@click.option("--port", default=0, show_default="any free one", help="Listen on this port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this loopback address.")
@click.option("--seed", default=0, show_default=True, help="Draw key, tokens and orders from this number.")
@click.option(
    "--fault-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Let so much of the requests suffer each kind of fault, 0.03 say.",
)
@click.option(
    "--order-every",
    type=click.FloatRange(0, min_open=True),
    help="Let somebody pay so often, in seconds, and tell the webhook. [default: never]",
)
def command(*, port: int, host: str, seed: int, fault_rate: float, order_every: float | None) -> None:
    """Serve a fake TGmembership on this machine, to try things on.

    It has four plans, sixty orders, and knows every member. The lines on stdout, set in the environment of another
    program, point Session.from_env() to it. Ctrl-C ends it.
    """
    service = FakeService(seed=seed, faults=nasty(fault_rate) if fault_rate else ())
    service.populate()
    with serve(service, host=host, port=port) as server:
        for name, value in server.env().items():
            click.echo(f"{name}={value}")
        note(f"The fake service listens on {server.url}; Ctrl-C ends it.")
        try:
            customers = Random(seed)  # noqa: S311 - reproducible on purpose
            while not threading.Event().wait(order_every):
                service.order(customers.choice(service.plans).plan_id, customers.randrange(10**8, 10**10))
        except KeyboardInterrupt:
            grants = len(service.audit)
            click.echo(f"\n{service.count_requests():,} requests, {grants:,} grants.", err=True)
