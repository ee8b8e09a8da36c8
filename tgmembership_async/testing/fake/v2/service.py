"""The fake project: state in memory, responses to requests, a log of requests, and faults. No I/O."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, Literal

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.faults import Fault, FaultBook
from tgmembership_async.testing.fake.http import ReceivedRequest
from tgmembership_async.testing.fake.journal import RequestJournal
from tgmembership_async.testing.fake.state import now_in_utc
from tgmembership_async.testing.fake.v2.http import ProjectServer, Sample, answer, error, name_of_route
from tgmembership_async.testing.fake.v2.limits import Allowance, RateLimits
from tgmembership_async.testing.fake.v2.values import SAMPLE_PROJECT_ID, SAMPLE_PROJECT_PLANS, FakeProjectPlan
from tgmembership_async.values.secret import Secret

_DROPPED: Final = frozenset({400, 401, 403, 405, 406, 422})
_SUCCESSES: Final = range(200, 300)


class FakeProject(RequestJournal, ProjectServer):
    """A fake of API v2 with one project, for tests. Thread-safe; every parameter has a default.

    `users` are the ids of known Telegram users, `coupons` the valid codes. `per_minute` and `burst` (per second) are
    the documented rate limits; None is no limit. `samples` selects contradictory samples of the pages that replies
    follow: "no ok", "error.code". `signs_with` is what signs deliveries: the "text" of the webhook secret, or its
    decoded "bytes", which is not known of the service. The methods of fault rules are the paths of the routes, such as
    `memberships/{user_id}/extend`. `token` is generated from `seed` unless given.
    """

    def __init__(
        self,
        *,
        project_id: str = SAMPLE_PROJECT_ID,
        token: str | None = None,
        plans: Iterable[FakeProjectPlan] = SAMPLE_PROJECT_PLANS,
        users: Iterable[int] = (),
        coupons: Iterable[str] = (),
        per_minute: int | None = 100,
        burst: int | None = 20,
        samples: Iterable[Sample] = (),
        signs_with: Literal["text", "bytes"] = "text",
        faults: Iterable[Fault] = (),
        clock: Callable[[], datetime] = now_in_utc,
        seed: int = 0,
    ) -> None:
        super().__init__(project_id=project_id, plans=plans, users=users, coupons=coupons, clock=clock, seed=seed)
        self.token: Secret = Secret(f"{self._random.getrandbits(160):040x}" if token is None else token)
        self.samples: frozenset[Sample] = frozenset(samples)
        self.signs_with: Literal["text", "bytes"] = signs_with
        self._limits = RateLimits(per_minute, burst)
        self._book = FaultBook(seed)
        self._book.add(faults)
        self._requests = []

    def __repr__(self) -> str:
        return f"<FakeProject {self.project_id}: {len(self._requests)} requests, {len(self._audit)} effects>"

    def session_options(self) -> dict[str, Any]:
        """Return id and token as options: `Project(**service.session_options(), transport=...)`."""
        return {"project_id": self.project_id, "token": self.token}

    def environment(self, url: str) -> dict[str, str]:
        """Return the variables, without their prefix, that connect `Project.from_env()` to this service at `url`."""
        return {"PROJECT_ID": self.project_id, "PROJECT_TOKEN": self.token.reveal(), "PROJECT_BASE_URL": url}

    def allowance(self) -> Allowance | None:
        """Count a call against the rate limits."""
        return self._limits.take(self.now)

    def probe(self, verb: str, target: bytes, headers: Headers, body: bytes) -> str | None:  # noqa: ARG002 - as FakeService
        """Return None: no request to a new webhook is documented."""
        return None

    def sign_delivery(self, body: bytes, secret: str, *, timestamp: float, nonce: str | None) -> dict[str, str]:  # noqa: ARG002 - no nonce in v2
        """Return the headers of a delivery: HMAC-SHA256 over `t.body` (*documented*)."""
        when = str(int(timestamp))
        decoded = self.signs_with == "bytes" and secret == (self._webhook.secret if self._webhook else None)
        key = bytes.fromhex(secret) if decoded else secret.encode()
        mac = hmac.new(key, f"{when}.".encode() + body, hashlib.sha256).hexdigest()
        return {"X-Webhook-Signature": f"v1={mac},t={when}", "X-Project-ID": self.project_id}

    def is_final(self, status: int | None) -> bool:
        """Tell whether a delivery is not repeated: any 2xx, or an answer after which it is dropped (*documented*)."""
        return status in _SUCCESSES or status in _DROPPED

    def _answer(self, request: ReceivedRequest) -> Response:
        return answer(self, request)

    def _method_of(self, target: bytes) -> str:
        return name_of_route(target)

    def _refused(self, code: int, description: str) -> Response:
        return error(self.samples, code, description)
