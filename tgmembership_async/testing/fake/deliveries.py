"""The fake service's own calls: events, signed and delivered to the webhook, with repeats, duplicates and forgeries."""

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
from tgmembership_async.testing.fake.http import Arrival, webhook_to_probe
from tgmembership_async.testing.fake.outbox import DeliveryKind, DeliveryRecord, FakeEvent
from tgmembership_async.testing.fake.service import FakeService
from tgmembership_async.testing.fake.values import FakeWebhook
from tgmembership_async.webhooks.signature import sign

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int | None]]
"""Makes one POST to a URL with these headers and this body; returns the status of the answer, None without one."""

_OK: Final = 200
_ANSWERS_WITHIN: Final = 10.0


@frozen(kw_only=True)
class Postal:
    """How deliveries go: what is not answered 200 is repeated, up to `attempts` in all, `pause` seconds apart, doubled.

    `signed_anew` says whether a repeat has a new nonce and time (the real service: unknown). `duplicated` and `forged`
    are shares, from 0 to 1: so many deliveries come twice, and with so many comes a forgery, whose data says `forged`.
    `shuffled` mixes all that waits. `later_generation` signs as that one does. `concurrency` requests are out at most.
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
class _Parcel:
    event: FakeEvent
    kind: DeliveryKind
    headers: Mapping[str, str] = field(repr=False)


class Courier:
    """Deliver what waits in a service's outbox to its webhook: `await Courier(service).deliver()`.

    `post` makes the requests, by default over HTTP and to loopback hosts only; a function of your own may call a
    receiver in process. Works on asyncio and trio.
    """

    def __init__(
        self,
        service: FakeService,
        postal: Postal | None = None,
        *,
        post: Post | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        self._service = service
        self._postal = Postal() if postal is None else postal
        self._is_yours = post is not None
        self._post = post or post_over_http
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - reproducible on purpose

    async def deliver(self) -> list[DeliveryRecord]:
        """Deliver all that waits, and return what came of it."""
        webhook, events = self._service.webhook, self._service.outbox.take()
        if webhook is None or not events or not (self._is_yours or _is_local(webhook.url)):
            return []
        parcels = list(self._pack(events, webhook.secret))
        if self._postal.shuffled:
            self._random.shuffle(parcels)
        records: list[DeliveryRecord] = []
        waiting = iter(parcels)

        async def carry() -> None:
            for parcel in waiting:
                await self._carry(parcel, webhook, records)

        await _side_by_side(carry, min(self._postal.concurrency, len(parcels)))
        return records

    def _pack(self, events: Iterable[FakeEvent], secret: str) -> Iterable[_Parcel]:
        for event in events:
            headers = self._sign(event, secret)
            yield _Parcel(event, "first", headers)
            if self._random.random() < self._postal.duplicated:
                again = self._sign(event, secret) if self._random.random() < 0.5 else headers  # noqa: PLR2004 - half
                yield _Parcel(event, "duplicate", again)
            if self._random.random() < self._postal.forged:
                forged = evolve(event, data={**event.data, "forged": "yes"})
                yield _Parcel(forged, "forged", self._sign(forged, f"not{secret}"))

    def _sign(self, event: FakeEvent, secret: str) -> dict[str, str]:
        nonce = None if self._postal.later_generation else f"{self._random.getrandbits(52):013x}"
        return sign(secret, event.body(), nonce=nonce, timestamp=self._clock())

    async def _carry(self, parcel: _Parcel, webhook: FakeWebhook, records: list[DeliveryRecord]) -> None:
        headers, kind, pause = parcel.headers, parcel.kind, self._postal.pause
        for _ in range(1 if kind == "forged" else self._postal.attempts):
            status = await self._post(webhook.url, {"content-type": "application/json", **headers}, parcel.event.body())
            record = DeliveryRecord(parcel.event, kind, status)
            records.append(record)
            self._service.outbox.note(record)
            if status == _OK or kind == "forged":
                return
            await anyio.sleep(pause)
            kind, pause = "repeat", 2 * pause
            headers = self._sign(parcel.event, webhook.secret) if self._postal.signed_anew else headers


async def _side_by_side(work: Callable[[], Awaitable[None]], times: int) -> None:
    """Run `work` so many times at once; what one raises ends them all, and is raised as it is."""
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


async def deliver_until(closing: asyncio.Event, service: FakeService, postal: Postal | None) -> None:
    """Deliver what the service has to tell, as it comes, until `closing` is set. Several bunches may be under way."""
    loop, courier = asyncio.get_running_loop(), Courier(service, postal)
    under_way: set[asyncio.Task[Any]] = set()

    def start() -> None:
        task = loop.create_task(courier.deliver())
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    service.outbox.listen(partial(loop.call_soon_threadsafe, start))
    start()  # what was told before
    await closing.wait()
    service.outbox.listen(None)
    for task in under_way:
        task.cancel()
    if under_way:
        await asyncio.wait(under_way)


async def probe_webhook(service: FakeService, verb: str, target: bytes, headers: Headers, body: bytes) -> None:
    """Ask a URL that shall become the webhook whether it answers 200, as the service does (the verb is *assumed*).

    Only on this machine: `https://shop.example/` in somebody's test is taken as it is, and nobody there is bothered.
    """
    url = webhook_to_probe(service, Arrival(0, verb, target, headers, body))
    if url is not None and _is_local(url):
        service.outbox.note_probe(url, await _over_http("GET", url, {}, b""))


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


async def post_over_http(url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    """Make one POST; return the status of the answer, None without one."""
    return await _over_http("POST", url, headers, body)


async def _over_http(verb: str, url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    # Threads and the standard library: who receives is under test, and who sends shall not be of its make.
    return await anyio.to_thread.run_sync(partial(_ask, verb, url, headers, body), abandon_on_cancel=True)


def _ask(verb: str, url: str, headers: Mapping[str, str], body: bytes) -> int | None:
    parts = urlsplit(url)
    kind = partial(HTTPSConnection, context=_no_questions()) if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_ANSWERS_WITHIN)
    try:
        connection.request(verb, f"{parts.path or '/'}{parts.query and '?'}{parts.query}", body, dict(headers))
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _no_questions() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # on loopback, a certificate is nobody's business
    return context
