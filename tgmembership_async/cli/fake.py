"""`tgmembership fake`: run the fake service until interrupted."""

import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from random import Random
from time import monotonic
from typing import Final

import click

from tgmembership_async.cli.output import counted, note
from tgmembership_async.testing import FakeProject, FakeService, serve
from tgmembership_async.testing.fake.faults import nasty

_MEMBERSHIPS: Final = 60
_LOOKS: Final = 0.2  # seconds between two looks at the requests
_LINES: Final[Mapping[str, Callable[[str, str], str]]] = {
    "env": lambda name, value: f"{name}={value}",
    "sh": lambda name, value: f"export {name}={shlex.quote(value)}",
    "fish": lambda name, value: f"set -gx {name} {shlex.quote(value)}",
    "powershell": lambda name, value: f"$env:{name} = '{value}'",
}
_EPILOG: Final = """
\b
Examples:
  tgmembership fake
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
@click.option(
    "--shell",
    type=click.Choice(["auto", *_LINES]),
    default="auto",
    show_default=True,
    help="Syntax of the printed variables; auto is env in a pipe, and your shell's on a terminal.",
)
def command(
    *,
    port: int,
    host: str,
    seed: int,
    fault_rate: float,
    order_every: float | None,
    generation: str,
    shell: str,
) -> None:
    """Run a fake TGmembership service on this machine.

    The service has four plans and sixty orders, and accepts every member id; a project of v2 has two plans and sixty
    memberships. The lines on stdout are the environment variables with which Session.from_env(), or Project.from_env(),
    connects to the service; on a terminal, paste them into another one. There, each request is printed on stderr, too.
    Ctrl-C ends it.
    """
    faults = nasty(fault_rate) if fault_rate else ()
    service = FakeProject(seed=seed, faults=faults) if generation == "v2" else FakeService(seed=seed, faults=faults)
    customers = Random(seed)  # noqa: S311 - reproducible on purpose
    _populate(service, customers)
    with serve(service, host=host, port=port) as server:
        try:
            more = {"TGMEMBERSHIP_GENERATION": "v1"} if generation == "v1" else {}
            for name, value in {**server.env(), **more}.items():
                click.echo(_LINES[_shell(shell)](name, value))
            note(f"The fake service listens on {server.url}; Ctrl-C ends it.")
            _run(service, customers, order_every)
        except KeyboardInterrupt:
            if isinstance(service, FakeService):
                effects = counted(len(service.audit), "grant")
            else:
                effects = counted(sum(effect.number > 0 for effect in service.audit), "effect")
            click.echo(f"\n{counted(service.count_requests(), 'request')}, {effects}.", err=True)


def _shell(chosen: str) -> str:
    if chosen != "auto":
        return chosen
    if not sys.stdout.isatty():
        return "env"
    if os.name == "nt":
        return "powershell"
    return "fish" if os.environ.get("SHELL", "").endswith("/fish") else "sh"


def _run(service: FakeService | FakeProject, customers: Random, order_every: float | None) -> None:
    """Place orders, and on a terminal print the requests, until interrupted."""
    telling, printed = sys.stderr.isatty(), 0
    due = None if order_every is None else monotonic() + order_every
    while True:
        left = _LOOKS if due is None else max(0.0, due - monotonic())
        threading.Event().wait(min(_LOOKS, left))  # not for ever: a Ctrl-C right before the wait does not end it
        if order_every is not None and due is not None and monotonic() >= due:
            _order(service, customers)
            due += order_every
        for record in service.requests[printed:] if telling else ():
            faults = f"  fault: {', '.join(record.faults)}" if record.faults else ""
            note(f"{record.at:%H:%M:%S}  {record.number:>5}  {record.verb} {record.method}{faults}")
            printed = record.number


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
