"""A fake TGmembership service for tests, in process or over HTTP, with faults, and conformance checks."""

from typing import TYPE_CHECKING, cast

from tgmembership_async.lazy import lazy_attributes, load

if TYPE_CHECKING:
    from tgmembership_async.testing.chaos.proxy import ChaosProxy
    from tgmembership_async.testing.chaos.troubles import Incident, Trouble
    from tgmembership_async.testing.conformance.payments import PAYMENT_CHECKS, AdapterSample
    from tgmembership_async.testing.conformance.transitions import LEDGER_CHECKS
    from tgmembership_async.testing.fake.deliveries import Courier, Postal
    from tgmembership_async.testing.fake.faults import Fault
    from tgmembership_async.testing.fake.outbox import DeliveryRecord, FakeEvent
    from tgmembership_async.testing.fake.sender import WebhookSender
    from tgmembership_async.testing.fake.server import FakeServer
    from tgmembership_async.testing.fake.service import FakeService
    from tgmembership_async.testing.fake.transport import FakeTransport
    from tgmembership_async.testing.fake.v2.service import FakeProject
    from tgmembership_async.testing.fake.values import FakePlan, GrantRecord, RequestRecord

__all__ = [
    "LEDGER_CHECKS",
    "PAYMENT_CHECKS",
    "AdapterSample",
    "ChaosProxy",
    "Courier",
    "DeliveryRecord",
    "FakeEvent",
    "FakePlan",
    "FakeProject",
    "FakeServer",
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


def serve(
    service: "FakeService | FakeProject", *, host: str = "127.0.0.1", port: int = 0, postal: "Postal | None" = None
) -> "FakeServer":
    """Return a server for `service` over HTTP on loopback. The server runs inside a `with` block.

    The server also delivers the events of the service to its webhook, with the settings in `postal`. Raises UsageError
    if the extra `testing` is not installed, and on entering if the port is not available.
    """
    server = cast("type[FakeServer]", load("testing.fake.server", "FakeServer", "testing"))
    return server(service, host=host, port=port, postal=postal)


if not TYPE_CHECKING:  # pytest loads our plugin, and with it this module, at every start, even if no fixture is used
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "testing.chaos.proxy": ["ChaosProxy"],
            "testing.chaos.troubles": ["Incident", "Trouble"],
            "testing.conformance.payments": ["PAYMENT_CHECKS", "AdapterSample"],
            "testing.conformance.transitions": ["LEDGER_CHECKS"],
            "testing.fake.deliveries": ["Courier", "Postal"],
            "testing.fake.faults": ["Fault"],
            "testing.fake.outbox": ["DeliveryRecord", "FakeEvent"],
            "testing.fake.sender": ["WebhookSender"],
            "testing.fake.server": ["FakeServer"],
            "testing.fake.service": ["FakeService"],
            "testing.fake.transport": ["FakeTransport"],
            "testing.fake.v2.service": ["FakeProject"],
            "testing.fake.values": ["FakePlan", "GrantRecord", "RequestRecord"],
        },
        {"FakeServer": "testing"},
    )
