"""What the fake service has to tell a webhook, and what came of telling it. Pure state, thread-safe."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from threading import Lock
from typing import Any, Final, Literal

from attrs import field, frozen

from tgmembership_async.testing.fake.values import FakeOrder, FakePlan

DeliveryKind = Literal["first", "repeat", "duplicate", "forged"]
_TIME: Final = "%Y-%m-%d %H:%M:%S"


@frozen
class FakeEvent:
    """Something that happened, as the service tells it (its `data` is *assumed*, and all in strings)."""

    name: str
    debug_id: str
    data: Mapping[str, Any] = field(hash=False)

    def body(self) -> bytes:
        """Return it as a delivery carries it."""
        return json.dumps({"event": self.name, "debug_id": self.debug_id, "data": dict(self.data)}).encode()


@frozen
class DeliveryRecord:
    """One request to the webhook: `status` is what it answered, None where it did not."""

    event: FakeEvent
    kind: DeliveryKind
    status: int | None


class Outbox:
    """Events in the order in which they happened; those not yet taken wait to be delivered."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._told: list[FakeEvent] = []
        self._waiting: deque[FakeEvent] = deque()
        self._deliveries: list[DeliveryRecord] = []
        self._probes: dict[str, int | None] = {}
        self._on_event: Callable[[], object] | None = None

    @property
    def events(self) -> list[FakeEvent]:
        """Return all events that were told, in order."""
        with self._lock:
            return list(self._told)

    @property
    def deliveries(self) -> list[DeliveryRecord]:
        """Return every request that was made to the webhook, in the order of their ends."""
        with self._lock:
            return list(self._deliveries)

    def put(self, event: FakeEvent) -> None:
        """Have an event delivered."""
        with self._lock:
            self._told.append(event)
            self._waiting.append(event)
            if self._on_event is not None:
                self._on_event()

    def listen(self, on_event: Callable[[], object] | None) -> None:
        """Have a function called, in any thread, whenever there is something to deliver; after None it never is."""
        with self._lock:
            self._on_event = on_event

    def take(self) -> list[FakeEvent]:
        """Take all that waits, to deliver it."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def note(self, record: DeliveryRecord) -> None:
        """Take note of a request that was made."""
        with self._lock:
            self._deliveries.append(record)

    def note_probe(self, url: str, status: int | None) -> None:
        """Take note of what a URL answered when it was to become the webhook."""
        with self._lock:
            self._probes[url] = status

    def probed(self, url: str) -> int | None:
        """Return what a URL answered, None if nothing; without a network nobody asked, and it counts as 200."""
        with self._lock:
            return self._probes.get(url, 200)


def order_data(number: int, order: FakeOrder, plan: FakePlan) -> dict[str, str]:
    """Return what the service tells of a paid order (*assumed*)."""
    return {
        "order_id": str(number),
        "user_id": str(order.user_id),
        "plan_id": str(plan.plan_id),
        "plan_name": plan.name,
        "amount": _text(plan.cost),
        "currency": plan.currency,
        "payment_method": order.payment_method,
        "paid_at": order.at.strftime(_TIME),
    }


def termination_data(user_id: int, plan: FakePlan, reason: str, at: datetime) -> dict[str, str]:
    """Return what the service tells of access that has ended (*assumed*)."""
    return {
        "user_id": str(user_id),
        "plan_id": str(plan.plan_id),
        "plan_name": plan.name,
        "reason": reason,
        "terminated_at": at.strftime(_TIME),
    }


def _text(amount: Decimal) -> str:
    return f"{amount:f}"
