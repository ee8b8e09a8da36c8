"""Delivery of the fake service's events to its webhook: signed requests, with repeats, duplicates and forgeries."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from attrs import evolve, field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import is_loopback
from tgmembership_async.protocol.wire import Headers
from tgmembership_async.testing.fake.outbox import DeliveryKind, DeliveryRecord, FakeEvent
from tgmembership_async.testing.fake.service import FakeService
from tgmembership_async.testing.fake.v2.service import FakeProject
from tgmembership_async.testing.fake.values import FakeWebhook

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int | None]]
"""Sends one POST to a URL with these headers and this body; returns the status, or None without a response."""

_TIMEOUT: Final = 10.0


@frozen(kw_only=True)
class Postal:
    """The delivery settings of the fake service. A delivery that is not answered 200 is repeated.

    In API v2 any 2xx is a success, and some answers drop a delivery for good.

    `attempts` is the maximum number of requests for one delivery, `pause` the seconds before the first repeat, doubled
    for each further one. With `signed_anew` a repeat has a new nonce and time (unknown for the real service).
    `duplicated` and `forged` are shares from 0 to 1: of deliveries that are sent twice, and of deliveries that are
    accompanied by a forgery, whose data contains `forged`. With `shuffled`, waiting deliveries are sent in random
    order. With `later_generation`, requests are signed with HMAC-SHA256 and without a nonce. `concurrency` is the
    maximum number of requests in flight. Raises UsageError for values out of range.
    """

    attempts: int = 5
    pause: float = 0.1
    signed_anew: bool = True
    duplicated: float = 0.0
    forged: float = 0.0
    shuffled: bool = False
    later_generation: bool = False
    concurrency: int = 8

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1 or self.concurrency < 1 or self.pause < 0:
            msg = "attempts and concurrency are at least 1, and pause is not negative"
            raise UsageError(msg)
        if not (0 <= self.duplicated <= 1 and 0 <= self.forged <= 1):
            msg = "duplicated and forged are shares, from 0 to 1"
            raise UsageError(msg)


@frozen
class _Pending:
    event: FakeEvent
    kind: DeliveryKind
    headers: Mapping[str, str] = field(repr=False)


class Courier:
    """Delivers the events in a service's outbox to its webhook: `await Courier(service).deliver()`.

    `post` sends the requests, by default over HTTP and to loopback hosts only; pass a function of your own to call a
    receiver in process. `clock` returns unix seconds, for signatures. Works on asyncio and trio.
    """

    def __init__(
        self,
        service: FakeService | FakeProject,
        postal: Postal | None = None,
        *,
        post: Post | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        self._service = service
        self._postal = Postal() if postal is None else postal
        self._has_own_post = post is not None
        self._post = post or post_over_http
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - reproducible on purpose

    async def deliver(self) -> list[DeliveryRecord]:
        """Deliver all waiting events, and return a record of each request. Raises what `post` raises."""
        webhook, events = self._service.webhook, self._service.outbox.take()
        if webhook is None or not events or not (self._has_own_post or _is_local(webhook.url)):
            return []
        deliveries = list(self._prepare(events, webhook.secret))
        if self._postal.shuffled:
            self._random.shuffle(deliveries)
        records: list[DeliveryRecord] = []
        waiting = iter(deliveries)

        async def work() -> None:
            for delivery in waiting:
                await self._deliver_one(delivery, webhook, records)

        await _run_concurrently(work, min(self._postal.concurrency, len(deliveries)))
        return records

    def _prepare(self, events: Iterable[FakeEvent], secret: str) -> Iterable[_Pending]:
        for event in events:
            headers = self._sign(event, secret)
            yield _Pending(event, "first", headers)
            if self._random.random() < self._postal.duplicated:
                again = self._sign(event, secret) if self._random.random() < 0.5 else headers  # noqa: PLR2004 - half
                yield _Pending(event, "duplicate", again)
            if self._random.random() < self._postal.forged:
                forged = evolve(event, data={**event.data, "forged": "yes"})
                yield _Pending(forged, "forged", self._sign(forged, f"not{secret}"))

    def _sign(self, event: FakeEvent, secret: str) -> dict[str, str]:
        nonce = None if self._postal.later_generation else f"{self._random.getrandbits(52):013x}"
        return self._service.sign_delivery(event.body(), secret, timestamp=self._clock(), nonce=nonce)

    async def _deliver_one(self, delivery: _Pending, webhook: FakeWebhook, records: list[DeliveryRecord]) -> None:
        headers, kind, pause = delivery.headers, delivery.kind, self._postal.pause
        for _ in range(1 if kind == "forged" else self._postal.attempts):
            status = await self._post(
                webhook.url, {"content-type": "application/json", **headers}, delivery.event.body()
            )
            record = DeliveryRecord(delivery.event, kind, status)
            records.append(record)
            self._service.outbox.note(record)
            if self._service.is_final(status) or kind == "forged":
                return
            await anyio.sleep(pause)
            kind, pause = "repeat", 2 * pause
            headers = self._sign(delivery.event, webhook.secret) if self._postal.signed_anew else headers


async def _run_concurrently(work: Callable[[], Awaitable[None]], times: int) -> None:
    """Run `work` in this number of tasks. An exception of one task cancels the others and is raised unwrapped."""
    failed: Exception | None = None

    async def one() -> None:
        nonlocal failed
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - raised below, outside the group
            failed = failed or error
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(times):
            group.start_soon(one)
    if failed is not None:
        raise failed


async def deliver_until(closing: asyncio.Event, service: FakeService | FakeProject, postal: Postal | None) -> None:
    """Deliver events as they occur, until `closing` is set. Several batches may be in flight."""
    loop, courier = asyncio.get_running_loop(), Courier(service, postal)
    in_flight: set[asyncio.Task[Any]] = set()

    def start() -> None:
        task = loop.create_task(courier.deliver())
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)

    service.outbox.listen(partial(loop.call_soon_threadsafe, start))
    start()  # events from before
    await closing.wait()
    service.outbox.listen(None)
    for task in in_flight:
        task.cancel()
    if in_flight:
        await asyncio.wait(in_flight)


async def probe_webhook(
    service: FakeService | FakeProject, verb: str, target: bytes, headers: Headers, body: bytes
) -> None:
    """Send a GET to the URL of a `setWebhook` request and record its status (*documented*; the verb is *assumed*).

    Only loopback URLs are requested: a URL such as `https://shop.example/` in a test is accepted without a request.
    """
    url = service.probe(verb, target, headers, body)
    if url is not None and _is_local(url):
        service.outbox.note_probe(url, await _over_http("GET", url, {}, b""))


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


async def post_over_http(url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    """Send one POST; return the status, or None without a response."""
    return await _over_http("POST", url, headers, body)


async def _over_http(verb: str, url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    # Threads and the standard library: the sender must not share code with the receiver under test.
    return await anyio.to_thread.run_sync(partial(_request, verb, url, headers, body), abandon_on_cancel=True)


def _request(verb: str, url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    parts = urlsplit(url)
    kind = partial(HTTPSConnection, context=_unverified()) if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    try:
        connection.request(verb, f"{parts.path or '/'}{parts.query and '?'}{parts.query}", body, dict(headers))
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # loopback only
    return context
