"""`tgmembership fake`: run the fake service until interrupted."""

import threading
from random import Random
from typing import Final

import click

from tgmembership_async.cli.output import note
from tgmembership_async.testing import FakeProject, FakeService, serve
from tgmembership_async.testing.fake.faults import nasty

_MEMBERSHIPS: Final = 60
_EPILOG: Final = """
\b
Examples:
  tgmembership fake --port 8000 > fake.env &
  tgmembership --env-file fake.env plans
  tgmembership fake --fault-rate 0.03 --order-every 5
  tgmembership fake --generation v2 > project.env &
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
@click.option(
    "--generation",
    type=click.Choice(["legacy", "v1", "v2"]),
    default="legacy",
    show_default=True,
    help="Generation of the API to connect to; v2 is a project.",
)
def command(*, port: int, host: str, seed: int, fault_rate: float, order_every: float | None, generation: str) -> None:
    """Run a fake TGmembership service on this machine.

    The service has four plans and sixty orders, and accepts every member id; a project of v2 has two plans and sixty
    memberships. The lines on stdout are the environment variables with which Session.from_env(), or Project.from_env(),
    connects to the service. Ctrl-C ends it.
    """
    faults = nasty(fault_rate) if fault_rate else ()
    service = FakeProject(seed=seed, faults=faults) if generation == "v2" else FakeService(seed=seed, faults=faults)
    customers = Random(seed)  # noqa: S311 - reproducible on purpose
    _populate(service, customers)
    with serve(service, host=host, port=port) as server:
        try:
            for name, value in server.env().items():
                click.echo(f"{name}={value}")
            if generation == "v1":
                click.echo("TGMEMBERSHIP_GENERATION=v1")
            note(f"The fake service listens on {server.url}; Ctrl-C ends it.")
            while not threading.Event().wait(order_every):
                _order(service, customers)
        except KeyboardInterrupt:
            if isinstance(service, FakeService):
                effects = f"{len(service.audit):,} grants"
            else:
                effects = f"{sum(effect.number > 0 for effect in service.audit):,} effects"
            click.echo(f"\n{service.count_requests():,} requests, {effects}.", err=True)


def _populate(service: FakeService | FakeProject, customers: Random) -> None:
    if isinstance(service, FakeService):
        service.populate()
        return
    for _ in range(_MEMBERSHIPS):
        _order(service, customers)


def _order(service: FakeService | FakeProject, customers: Random) -> None:
    user_id = customers.randrange(10**8, 10**10)
    if isinstance(service, FakeService):
        service.order(customers.choice(service.plans).plan_id, user_id)
    else:
        service.pay(user_id, customers.choice(service.plans).plan_id)
