"""A TGmembership of your own for tests: in process or over real HTTP, with faults on demand."""

from typing import TYPE_CHECKING, Final

from tgmembership_async.errors import UsageError
from tgmembership_async.storage.optional import load

if TYPE_CHECKING:
    from tgmembership_async.testing.chaos.proxy import ChaosProxy
    from tgmembership_async.testing.chaos.troubles import Incident, Trouble
    from tgmembership_async.testing.conformance.transitions import LEDGER_CHECKS
    from tgmembership_async.testing.fake.deliveries import Courier, Postal
    from tgmembership_async.testing.fake.faults import Fault
    from tgmembership_async.testing.fake.outbox import DeliveryRecord, FakeEvent
    from tgmembership_async.testing.fake.sender import WebhookSender
    from tgmembership_async.testing.fake.server import FakeServer
    from tgmembership_async.testing.fake.service import FakeService
    from tgmembership_async.testing.fake.transport import FakeTransport
    from tgmembership_async.testing.fake.values import FakePlan, GrantRecord, RequestRecord

__all__ = [
    "LEDGER_CHECKS",
    "ChaosProxy",
    "Courier",
    "DeliveryRecord",
    "FakeEvent",
    "FakePlan",
    "FakeService",
    "FakeTransport",
    "Fault",
    "GrantRecord",
    "Incident",
    "Postal",
    "RequestRecord",
    "Trouble",
    "WebhookSender",
    "serve",
]

# Loaded on use: pytest loads our plugin, and with it this module, at every start, also where nobody asks for a fixture.
_ON_USE: Final = {
    "LEDGER_CHECKS": "tgmembership_async.testing.conformance.transitions",
    "ChaosProxy": "tgmembership_async.testing.chaos.proxy",
    "Courier": "tgmembership_async.testing.fake.deliveries",
    "DeliveryRecord": "tgmembership_async.testing.fake.outbox",
    "FakeEvent": "tgmembership_async.testing.fake.outbox",
    "FakePlan": "tgmembership_async.testing.fake.values",
    "FakeService": "tgmembership_async.testing.fake.service",
    "FakeTransport": "tgmembership_async.testing.fake.transport",
    "Fault": "tgmembership_async.testing.fake.faults",
    "GrantRecord": "tgmembership_async.testing.fake.values",
    "Incident": "tgmembership_async.testing.chaos.troubles",
    "Postal": "tgmembership_async.testing.fake.deliveries",
    "RequestRecord": "tgmembership_async.testing.fake.values",
    "Trouble": "tgmembership_async.testing.chaos.troubles",
    "WebhookSender": "tgmembership_async.testing.fake.sender",
}


def __getattr__(name: str) -> object:
    if name in _ON_USE:
        return globals().setdefault(name, load(_ON_USE[name], name))
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def serve(
    service: "FakeService", *, host: str = "127.0.0.1", port: int = 0, postal: "Postal | None" = None
) -> "FakeServer":
    """Return a server that answers for `service` on loopback, over real HTTP, while it is entered (a plain `with`).

    It also delivers to the webhook what the service has to tell; `postal` says how often, how doubled and how mixed up.
    Raises UsageError where the extra `testing` is not installed, and on entering where the port cannot be had.
    """
    try:
        from tgmembership_async.testing.fake.server import FakeServer  # noqa: PLC0415 - loads the extra only where it is used
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
    else:
        return FakeServer(service, host=host, port=port, postal=postal)
    msg = "serve() needs Starlette and uvicorn: pip install 'tgmembership-async[testing]'"
    raise UsageError(msg)
