"""The part that the fake services of all generations share: requests, their log, and fault rules. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from threading import RLock

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.renamed import warn_renamed
from tgmembership_async.testing.fake.fault_effects import FaultPlan, plan_of
from tgmembership_async.testing.fake.faults import Fault, FaultBook
from tgmembership_async.testing.fake.http import ReceivedRequest
from tgmembership_async.testing.fake.values import RequestRecord


class RequestJournal:
    """Records and handles requests, and applies fault rules. Thread-safe. Subclasses set the fields."""

    _lock: RLock
    _clock: Callable[[], datetime]
    _book: FaultBook
    _requests: list[RequestRecord]

    @property
    def requests(self) -> list[RequestRecord]:
        """Return all requests in order, including those that had no effect because of a fault."""
        with self._lock:
            return list(self._requests)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return the current fault rules."""
        return self._book.rules

    def count_requests(self, method: str | None = None) -> int:
        """Return the number of requests, for `method` or in total."""
        wanted = None if method is None else method.lower()
        return sum(wanted in (None, record.method.lower()) for record in self.requests)

    def inject(self, *faults: Fault) -> None:
        """Add fault rules."""
        with self._lock:
            self._book.add(faults)

    def clear_faults(self) -> None:
        """Remove all fault rules."""
        with self._lock:
            self._book.clear()

    def heal(self) -> None:
        """Call `clear_faults`, under its former name."""
        warn_renamed("heal", "clear_faults")
        self.clear_faults()

    def plan_faults(self, verb: str, target: bytes, body: bytes = b"") -> FaultPlan:  # noqa: ARG002 - for subclasses
        """Record a request, and return what the fault rules do to it."""
        method = self._method_of(target)
        with self._lock:
            fired = self._book.draw(method)
            return plan_of(self._record(verb, method, fired), fired, self._refused)

    def fate(self, verb: str, target: bytes, body: bytes = b"") -> FaultPlan:
        """Call `plan_faults`, under its former name."""
        warn_renamed("fate", "plan_faults")
        return self.plan_faults(verb, target, body)

    def handle(
        self,
        verb: str,
        target: bytes,
        headers: Headers | Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        number: int | None = None,
    ) -> Response:
        """Handle one request without faults, and return the response.

        `target` is path and query as on the wire; `number` is the number of the request if `plan_faults` has
        recorded it.
        """
        with self._lock:
            recorded = self._record(verb, self._method_of(target), ()) if number is None else number
            return self._answer(ReceivedRequest(recorded, verb, target, Headers.of(headers), body))

    def _answer(self, request: ReceivedRequest) -> Response:
        raise NotImplementedError

    def _method_of(self, target: bytes) -> str:
        raise NotImplementedError

    def _refused(self, code: int, description: str) -> Response:
        """Return an error as this generation of the service writes it."""
        raise NotImplementedError

    def _record(self, verb: str, method: str, fired: Iterable[Fault]) -> int:
        number = len(self._requests) + 1
        labels = tuple(fault.label for fault in fired)
        self._requests.append(RequestRecord(number, self._clock(), verb, method, labels))
        return number
