"""The events of the fake service, and the records of their deliveries. Thread-safe; no I/O."""

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
    """An event of the fake service. The fields of `data` are *assumed*; all values are strings."""

    name: str
    debug_id: str
    data: Mapping[str, Any] = field(hash=False)

    def body(self) -> bytes:
        """Return the body of its delivery."""
        return json.dumps({"event": self.name, "debug_id": self.debug_id, "data": dict(self.data)}).encode()


@frozen
class DeliveryRecord:
    """One request to the webhook. `status` is that of the response, or None without a response."""

    event: FakeEvent
    kind: DeliveryKind
    status: int | None


class Outbox:
    """All events in order, and a queue of those that are not yet delivered."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: list[FakeEvent] = []
        self._waiting: deque[FakeEvent] = deque()
        self._deliveries: list[DeliveryRecord] = []
        self._probes: dict[str, int | None] = {}
        self._on_event: Callable[[], object] | None = None

    @property
    def events(self) -> list[FakeEvent]:
        """Return all events, in order."""
        with self._lock:
            return list(self._all)

    @property
    def deliveries(self) -> list[DeliveryRecord]:
        """Return a record of each request to the webhook, in the order in which they ended."""
        with self._lock:
            return list(self._deliveries)

    def put(self, event: FakeEvent) -> None:
        """Add an event to the queue."""
        with self._lock:
            self._all.append(event)
            self._waiting.append(event)
            if self._on_event is not None:
                self._on_event()

    def listen(self, on_event: Callable[[], object] | None) -> None:
        """Set a function that is called, in any thread, for each new event; None removes it."""
        with self._lock:
            self._on_event = on_event

    def take(self) -> list[FakeEvent]:
        """Remove all events from the queue, and return them."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def note(self, record: DeliveryRecord) -> None:
        """Record a request to the webhook."""
        with self._lock:
            self._deliveries.append(record)

    def note_probe(self, url: str, status: int | None) -> None:
        """Record the status of a URL that a `setWebhook` request names."""
        with self._lock:
            self._probes[url] = status

    def probed(self, url: str) -> int | None:
        """Return the recorded status of a URL, None without a response, 200 if it was not requested."""
        with self._lock:
            return self._probes.get(url, 200)


def order_data(number: int, order: FakeOrder, plan: FakePlan) -> dict[str, str]:
    """Return the data of an `order_completed` event (*assumed*)."""
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
    """Return the data of a `membership_terminated` event (*assumed*)."""
    return {
        "user_id": str(user_id),
        "plan_id": str(plan.plan_id),
        "plan_name": plan.name,
        "reason": reason,
        "terminated_at": at.strftime(_TIME),
    }


def _text(amount: Decimal) -> str:
    return f"{amount:f}"
