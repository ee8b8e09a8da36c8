"""The fake service: state in memory, responses to requests, a log of requests, and faults. No I/O."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.fault_effects import legacy_error
from tgmembership_async.testing.fake.faults import Fault, FaultBook
from tgmembership_async.testing.fake.http import (
    HTTPServiceState,
    ReceivedRequest,
    TokenRefusal,
    answer,
    method_of,
    webhook_to_probe,
)
from tgmembership_async.testing.fake.journal import RequestJournal
from tgmembership_async.testing.fake.shapes import choose
from tgmembership_async.testing.fake.state import now_in_utc
from tgmembership_async.testing.fake.values import SAMPLE_PLANS, FakePlan, RequestRecord
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks.signature import sign

SAMPLE_BOT_ID: Final = 8047883872


class FakeService(RequestJournal, HTTPServiceState):
    """A fake TGmembership service for tests, with the legacy API and v1.

    It is thread-safe, and every parameter has a default.

    `members` are the ids of known Telegram users (None: any positive id), `silent` the ids of users who have not talked
    to the bot, `unused_cap` the maximum number of unused tokens. `shapes` selects the reply shape of each method (the
    names are in `shapes.py`), `faults` are the initial fault rules. `always_200` sends errors with HTTP status 200.
    `request_ids` adds `request_id` to the legacy envelope; v1 always has one. `token_refusal` is why v1 refuses all
    access tokens with 401: "no payment method", "test mode", "token policy", or None. `api_key` is generated
    from `seed` unless given. Raises UsageError for an unknown shape.
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
        token_refusal: TokenRefusal | None = None,
        clock: Callable[[], datetime] = now_in_utc,
        seed: int = 0,
    ) -> None:
        super().__init__(plans=plans, members=members, silent=silent, unused_cap=unused_cap, clock=clock, seed=seed)
        self.bot_id = bot_id
        self.api_key: Secret = Secret(self._letters(40) if api_key is None else api_key)
        self.always_200 = always_200
        self.request_ids = request_ids
        self.token_refusal: TokenRefusal | None = token_refusal
        self._shapes = choose(shapes or {})
        self._book = FaultBook(seed)
        self._book.add(faults)
        self._requests: list[RequestRecord] = []

    def __repr__(self) -> str:
        return f"<FakeService bot{self.bot_id}: {len(self._requests)} requests, {len(self._audit)} grants>"

    def session_options(self) -> dict[str, Any]:
        """Return bot id and API key as options: `Session(**service.session_options(), transport=...)`."""
        return {"bot_id": self.bot_id, "api_key": self.api_key}

    def environment(self, url: str) -> dict[str, str]:
        """Return the variables, without their prefix, that connect `Session.from_env()` to this service at `url`."""
        return {"BOT_ID": str(self.bot_id), "API_KEY": self.api_key.reveal(), "BASE_URL": url}

    def probe(self, verb: str, target: bytes, headers: Headers, body: bytes) -> str | None:
        """Return the URL that a valid `setWebhook` request names, which must answer 200 first; else None."""
        return webhook_to_probe(self, ReceivedRequest(0, verb, target, headers, body))

    def sign_delivery(self, body: bytes, secret: str, *, timestamp: float, nonce: str | None) -> dict[str, str]:
        """Return the headers of a delivery."""
        return sign(secret, body, nonce=nonce, timestamp=timestamp)

    def is_final(self, status: int | None) -> bool:
        """Tell whether a delivery is not repeated: only 200 is a success (*documented*)."""
        return status == HTTPStatus.OK

    def render(self, method: str, facts: object) -> Any:
        """Return a result in the shape that is configured for `method`."""
        return self._shapes[method](facts)

    def _answer(self, request: ReceivedRequest) -> Response:
        return answer(self, request)

    def _method_of(self, target: bytes) -> str:
        return method_of(target)

    def _refused(self, code: int, description: str) -> Response:
        return legacy_error(code, description)
