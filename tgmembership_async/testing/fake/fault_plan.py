"""What faults make of one request: the one place that says whether it takes effect, and what the client sees of it."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal, Protocol

from attrs import evolve, frozen

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.faults import Fault

Ending = Literal["whole", "cut", "closed", "reset"]

_ENDINGS: Final[Mapping[str, Ending]] = {"cut": "cut", "closed": "closed", "reset": "reset"}


@frozen
class Fate:
    """What happens to one request: wait, take effect or not, wait, answer in this way."""

    number: int
    wait_before: float = 0.0
    effect: bool = True
    wait_after: float = 0.0
    fault: Fault | None = None

    @property
    def ending(self) -> Ending:
        """Return how the answer ends on the wire."""
        return "whole" if self.fault is None else _ENDINGS.get(self.fault.kind, "whole")

    def dress(self, answer: Response) -> Response:
        """Return the answer that goes out in place of the true one."""
        if self.fault is None or self.fault.kind in ("closed", "reset"):
            return answer
        if self.fault.kind == "html":
            return _page(self.fault)
        if self.fault.kind in ("throttled", "error"):
            return _envelope(self.fault.status, "the fault you asked for", _told(self.fault))
        return evolve(answer, body=_damage(answer.body)) if self.fault.kind == "damaged" else answer


def _envelope(code: int, description: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    body = json.dumps({"ok": False, "code": code, "description": description}).encode()
    return Response(code, Headers((("content-type", "application/json"), *headers)), body)


def _page(fault: Fault) -> Response:
    body = f"<!doctype html><html><head><title>{fault.status}</title></head><body>Try later.</body></html>".encode()
    return Response(fault.status, Headers((("content-type", "text/html; charset=utf-8"), *_told(fault))), body)


def _told(fault: Fault) -> tuple[tuple[str, str], ...]:
    wait = fault.retry_after
    if wait is None:
        return ()
    return (("retry-after", wait if isinstance(wait, str) else f"{wait:.9f}".rstrip("0").rstrip(".")),)


def _damage(body: bytes) -> bytes:
    """Overwrite the middle with bytes that are neither UTF-8 nor allowed in JSON; the length stays."""
    middle = len(body) // 2
    return (body[:middle] + b"\xff\x00" + body[middle + 2 :])[: len(body)]


def fate_of(number: int, faults: Iterable[Fault]) -> Fate:
    """Return what the faults that struck make of a request."""
    struck = tuple(faults)
    deciding = next((fault for fault in struck if fault.kind != "latency"), None)
    return Fate(
        number,
        wait_before=sum(fault.seconds for fault in struck if fault.when == "before"),
        effect=deciding is None or deciding.when == "after",
        wait_after=sum(fault.seconds for fault in struck if fault.when == "after"),
        fault=deciding,
    )


class Service(Protocol):
    """What the rule below needs of a service."""

    def fate(self, verb: str, target: bytes) -> Fate:
        """Take note of a request that arrived, and say what happens to it."""
        ...

    def handle(self, verb: str, target: bytes, headers: Headers, body: bytes, *, number: int | None = None) -> Response:
        """Act on a request, and answer it."""
        ...


async def exchange(
    service: Service,
    verb: str,
    target: bytes,
    headers: Headers,
    body: bytes,
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> tuple[Response, Ending]:
    """Carry a request through its fate; return the answer to send, and how it ends on the wire.

    The effect takes place even if the client goes away meanwhile: a real service does not notice either.
    """
    fate = service.fate(verb, target)
    answer = _envelope(500, "nothing was done")
    try:
        if fate.wait_before:
            await sleep(fate.wait_before)
    finally:
        if fate.effect:
            answer = service.handle(verb, target, headers, body, number=fate.number)
    if fate.wait_after:
        await sleep(fate.wait_after)
    return fate.dress(answer), fate.ending
