"""The fake service: a world in memory that answers requests, with a log of them and faults on demand. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.fault_plan import Fate, fate_of
from tgmembership_async.testing.fake.faults import Fault, FaultBook
from tgmembership_async.testing.fake.http import Arrival, Served, answer, method_of
from tgmembership_async.testing.fake.shapes import choose
from tgmembership_async.testing.fake.state import now_in_utc
from tgmembership_async.testing.fake.values import SAMPLE_PLANS, FakePlan, RequestRecord
from tgmembership_async.values.secret import Secret

SAMPLE_BOT_ID: Final = 8047883872


class FakeService(Served):
    """A TGmembership of your own, for tests. Thread-safe; everything has a default.

    `members` are the Telegram users it knows (None: any positive id), `silent` those of them who have not talked to the
    bot, `unused_cap` how many unused tokens may be out. `shapes` picks how each method speaks (the names are in
    `shapes.py`), `faults` what goes wrong. `always_200` sends errors with HTTP status 200; `request_ids` adds the later
    generation's `request_id` to the envelope. `api_key` is drawn from `seed` unless given.
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
        """Return every request that arrived, in order, those that faults kept from taking effect included."""
        with self._lock:
            return list(self._requests)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return the rules that are in force."""
        return self._book.rules

    def count_requests(self, method: str | None = None) -> int:
        """Return how many requests arrived, for `method` or in all."""
        wanted = None if method is None else method.lower()
        return sum(wanted in (None, record.method.lower()) for record in self.requests)

    def inject(self, *faults: Fault) -> None:
        """Let more go wrong from now on."""
        with self._lock:
            self._book.add(faults)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._book.clear()

    def session_options(self) -> dict[str, Any]:
        """Return bot id and key as a Session takes them: `Session(**service.session_options(), transport=...)`."""
        return {"bot_id": self.bot_id, "api_key": self.api_key}

    def fate(self, verb: str, target: bytes) -> Fate:
        """Take note of a request that arrived, and say what the faults in force make of it."""
        method = method_of(target)
        with self._lock:
            struck = self._book.draw(method)
            return fate_of(self._note(verb, method, struck), struck)

    def handle(
        self,
        verb: str,
        target: bytes,
        headers: Headers | Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        number: int | None = None,
    ) -> Response:
        """Act on one request and answer it, without faults.

        `target` is path and query as they stand on the wire; `number` is what `fate` gave the request, if it was asked.
        """
        with self._lock:
            noted = self._note(verb, method_of(target), ()) if number is None else number
            return answer(self, Arrival(noted, verb, target, Headers.of(headers), body))

    def speak(self, method: str, facts: object) -> Any:
        """Return a result in the shape that was chosen for `method`."""
        return self._shapes[method](facts)

    def _note(self, verb: str, method: str, struck: Iterable[Fault]) -> int:
        number = len(self._requests) + 1
        labels = tuple(fault.label for fault in struck)
        self._requests.append(RequestRecord(number, self._clock(), verb, method, labels))
        return number
