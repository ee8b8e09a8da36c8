"""The fake service: state in memory, responses to requests, a log of requests, and faults. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.fault_plan import FaultPlan, plan_of
from tgmembership_async.testing.fake.faults import Fault, FaultBook
from tgmembership_async.testing.fake.http import HTTPServiceState, ReceivedRequest, answer, method_of
from tgmembership_async.testing.fake.shapes import choose
from tgmembership_async.testing.fake.state import now_in_utc
from tgmembership_async.testing.fake.values import SAMPLE_PLANS, FakePlan, RequestRecord
from tgmembership_async.values.secret import Secret

SAMPLE_BOT_ID: Final = 8047883872


class FakeService(HTTPServiceState):
    """A fake TGmembership service for tests. Thread-safe; every parameter has a default.

    `members` are the ids of known Telegram users (None: any positive id), `silent` the ids of users who have not talked
    to the bot, `unused_cap` the maximum number of unused tokens. `shapes` selects the reply shape of each method (the
    names are in `shapes.py`), `faults` are the initial fault rules. `always_200` sends errors with HTTP status 200.
    `request_ids` adds the later generation's `request_id` to the envelope. `api_key` is generated from `seed` unless
    given. Raises UsageError for an unknown shape.
    """

    def __init__(
        self,
        *,
        bot_id: int = SAMPLE_BOT_ID,
        api_key: str | None = None,
        plans: Iterable[FakePlan] = SAMPLE_PLANS,
        members: Iterable[int] | None = None,
        silent: Iterable[int] = (),
        unused_cap: int | None = None,
        shapes: Mapping[str, str] | None = None,
        faults: Iterable[Fault] = (),
        always_200: bool = False,
        request_ids: bool = False,
        clock: Callable[[], datetime] = now_in_utc,
        seed: int = 0,
    ) -> None:
        super().__init__(plans=plans, members=members, silent=silent, unused_cap=unused_cap, clock=clock, seed=seed)
        self.bot_id = bot_id
        self.api_key: Secret = Secret(self._letters(40) if api_key is None else api_key)
        self.always_200 = always_200
        self.request_ids = request_ids
        self._shapes = choose(shapes or {})
        self._book = FaultBook(seed)
        self._book.add(faults)
        self._requests: list[RequestRecord] = []

    def __repr__(self) -> str:
        return f"<FakeService bot{self.bot_id}: {len(self._requests)} requests, {len(self._audit)} grants>"

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

    def heal(self) -> None:
        """Remove all fault rules."""
        with self._lock:
            self._book.clear()

    def session_options(self) -> dict[str, Any]:
        """Return bot id and API key as options: `Session(**service.session_options(), transport=...)`."""
        return {"bot_id": self.bot_id, "api_key": self.api_key}

    def fate(self, verb: str, target: bytes) -> FaultPlan:
        """Record a request, and return what the fault rules do to it."""
        method = method_of(target)
        with self._lock:
            fired = self._book.draw(method)
            return plan_of(self._record(verb, method, fired), fired)

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

        `target` is path and query as they stand on the wire; `number` is the number of the request if `fate` has
        recorded it.
        """
        with self._lock:
            recorded = self._record(verb, method_of(target), ()) if number is None else number
            return answer(self, ReceivedRequest(recorded, verb, target, Headers.of(headers), body))

    def speak(self, method: str, facts: object) -> Any:
        """Return a result in the shape that is configured for `method`."""
        return self._shapes[method](facts)

    def _record(self, verb: str, method: str, fired: Iterable[Fault]) -> int:
        number = len(self._requests) + 1
        labels = tuple(fault.label for fault in fired)
        self._requests.append(RequestRecord(number, self._clock(), verb, method, labels))
        return number
