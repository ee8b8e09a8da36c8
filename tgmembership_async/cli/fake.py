"""`tgmembership fake`: run the fake service until interrupted."""

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
@click.option("--port", default=0, show_default="any free one", help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random API key, tokens and orders.")
@click.option(
    "--fault-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Fraction of requests that get each kind of fault, for example 0.03.",
)
@click.option(
    "--order-every",
    type=click.FloatRange(0, min_open=True),
    help="Seconds between simulated orders, each delivered to the webhook. [default: no orders]",
)
def command(*, port: int, host: str, seed: int, fault_rate: float, order_every: float | None) -> None:
    """Run a fake TGmembership service on this machine.

    The service has four plans and sixty orders, and accepts every member id. The lines on stdout are the environment
    variables with which Session.from_env() connects to the service. Ctrl-C ends it.
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
