"""The generation of the API and the host that the credentials belong to, and the reads of each generation.

The hosts are *documented*. Credentials are sent to another host than the configured one only if both are the service's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import field, frozen

from tgmembership_async.cli.credentials import project, session
from tgmembership_async.cli.doctor.network import Check
from tgmembership_async.errors import CallError
from tgmembership_async.middleware import Middleware
from tgmembership_async.project import endpoints as v2
from tgmembership_async.project import results as v2_results
from tgmembership_async.project.account import BASE_URL as V2_URL
from tgmembership_async.project.client import Project
from tgmembership_async.protocol.endpoints import ENDPOINTS, GENERATIONS, Endpoint
from tgmembership_async.protocol.retry import RetryPolicy
from tgmembership_async.protocol.structuring.results import EXPECTED, Alternatives
from tgmembership_async.protocol.wire import Safety
from tgmembership_async.session import Session
from tgmembership_async.settings import BASE_URL
from tgmembership_async.values.models import Reply

_HOSTS: Final = (BASE_URL, V2_URL)
_DEADLINE: Final = 10.0
_FEW: Final = {"limit": 5}
_V1_EXPECTED: Final[Mapping[str, Alternatives]] = {"bot": (("bot_id",), ("api_key",))}


@frozen
class Read:
    """A call that only reads: its endpoint, its parameters, and the fields of its result that this package expects."""

    endpoint: Endpoint[Any]
    expected: Mapping[str, Alternatives] = field(repr=False)
    params: Mapping[str, int] = field(factory=dict[str, int])

    def call(self, client: Session | Project) -> Awaitable[Reply[Any]]:
        """Send the call."""
        if isinstance(client, Project):
            return client.request("GET", self.endpoint.method, self.params)
        return client.call(self.endpoint.method)


READS: Final[Mapping[str, Sequence[Read]]] = {
    "legacy": [Read(endpoint, EXPECTED) for endpoint in ENDPOINTS if endpoint.safety is Safety.SAFE],
    "v1": [Read(GENERATIONS["v1"].check, _V1_EXPECTED)],
    "v2": [
        Read(v2.PLANS, v2_results.EXPECTED),
        *(
            Read(endpoint, v2_results.EXPECTED, _FEW)
            for endpoint in (v2.USERS, v2.MEMBERSHIPS, v2.PAYMENT_REQUESTS, v2.BANNED)
        ),
    ],
}
"""The calls that only read, of each generation; the first one shows whether the credentials are accepted."""


@frozen
class Place:
    """A generation of the API at a host."""

    generation: str
    base_url: str

    def __str__(self) -> str:
        return f"{self.generation} at {urlsplit(self.base_url).netloc}"

    @property
    def advice(self) -> str:
        """Return the environment variables that select it."""
        if self.generation == "v2":
            return f"TGMEMBERSHIP_PROJECT_BASE_URL={self.base_url}"
        return f"TGMEMBERSHIP_GENERATION={self.generation} and TGMEMBERSHIP_BASE_URL={self.base_url}"

    def client(self, project_id: str | None, record: Middleware) -> Session | Project:
        """Return a client that calls here, with the credentials in the environment."""
        options: dict[str, Any] = {
            "base_url": self.base_url,
            "deadline": _DEADLINE,
            "retry": RetryPolicy(attempts=1),
            "attempt_middleware": [record],
        }
        if project_id is not None:
            return project(project_id, **options)
        options["generation"] = self.generation
        return session(**options)


def others(configured: Place) -> list[Place]:
    """Return where the credentials may belong instead: the other generation of a bot, and the service's other host."""
    hosts = [configured.base_url, *(_HOSTS if configured.base_url in _HOSTS else ())]
    generations = ["v2"] if configured.generation == "v2" else [configured.generation, *GENERATIONS]
    places = [Place(generation, host) for host in hosts for generation in generations]
    return [place for place in dict.fromkeys(places) if place != configured]


async def check_generation(
    configured: Place,
    came: str | None,
    project_id: str | None,
    record: Middleware,
    why: Callable[[CallError], str],
) -> Check:
    """Return which place accepts the credentials; `came` is why the configured one does not, or None if it does.

    `record` sees each response, and `why` describes an error.
    """
    if came is None:
        return Check("generation", "ok", f"{configured}, as expected")
    results, accepting = [f"{configured}: {came}"], list[Place]()
    for place in others(configured):
        result = await _result(place.client(project_id, record), why)
        results.append(f"{place}: {result or 'accepted'}")
        accepting += [] if result else [place]
    advice = (
        f"set {accepting[0].advice}"
        if accepting
        else "check the credentials, which are of another bot or project, or of another platform: "
        "legacy and v1 are for bots, v2 for projects"
    )
    return Check("generation", "failed", f"expected {configured}; came {'; '.join(results)}. Next: {advice}")


async def _result(client: Session | Project, why: Callable[[CallError], str]) -> str | None:
    """Return None if the credentials are accepted, or else the reason."""
    try:
        async with client:
            await client.check()
    except CallError as error:
        return why(error)
    return None
