"""The effect of faults on one request: whether the request takes effect, and what the client receives."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal, Protocol

from attrs import evolve, frozen

from tgmembership_async.protocol.wire import Headers, Response
from tgmembership_async.testing.fake.faults import Fault

Ending = Literal["whole", "cut", "closed", "reset"]

_ENDINGS: Final[Mapping[str, Ending]] = {"cut": "cut", "closed": "closed", "reset": "reset"}

Refused = Callable[[int, str], Response]
"""Builds the error reply with a code and a description, as one generation of the service writes it."""


def legacy_error(code: int, description: str) -> Response:
    """Return an error in the envelope of the legacy API and of v1."""
    body = json.dumps({"ok": False, "code": code, "description": description}).encode()
    return Response(code, Headers((("content-type", "application/json"),)), body)


@frozen
class FaultPlan:
    """The course of one request: a wait, the effect or none, a wait, and the response that a fault changes."""

    number: int
    wait_before: float = 0.0
    effect: bool = True
    wait_after: float = 0.0
    fault: Fault | None = None
    refused: Refused = legacy_error

    @property
    def ending(self) -> Ending:
        """Return how the connection ends."""
        return "whole" if self.fault is None else _ENDINGS.get(self.fault.kind, "whole")

    def disguised(self, answer: Response) -> Response:
        """Return the response that is sent in place of the real one."""
        if self.fault is None or self.fault.kind in ("closed", "reset"):
            return answer
        if self.fault.kind == "html":
            return _page(self.fault)
        if self.fault.kind in ("throttled", "error"):
            answer = self.refused(self.fault.status, "the fault you asked for")
            return evolve(answer, headers=Headers((*answer.headers, *_retry_after(self.fault))))
        return evolve(answer, body=_damage(answer.body)) if self.fault.kind == "damaged" else answer


def _page(fault: Fault) -> Response:
    body = f"<!doctype html><html><head><title>{fault.status}</title></head><body>Try later.</body></html>".encode()
    return Response(fault.status, Headers((("content-type", "text/html; charset=utf-8"), *_retry_after(fault))), body)


def _retry_after(fault: Fault) -> tuple[tuple[str, str], ...]:
    wait = fault.retry_after
    if wait is None:
        return ()
    return (("retry-after", wait if isinstance(wait, str) else f"{wait:.9f}".rstrip("0").rstrip(".")),)


def _damage(body: bytes) -> bytes:
    """Overwrite the middle with bytes that are neither UTF-8 nor allowed in JSON. The length does not change."""
    middle = len(body) // 2
    return (body[:middle] + b"\xff\x00" + body[middle + 2 :])[: len(body)]


def plan_of(number: int, faults: Iterable[Fault], refused: Refused = legacy_error) -> FaultPlan:
    """Return the plan for a request on which these faults fired; `refused` builds error replies."""
    fired = tuple(faults)
    deciding = next((fault for fault in fired if fault.kind != "latency"), None)
    return FaultPlan(
        number,
        wait_before=sum(fault.seconds for fault in fired if fault.when == "before"),
        effect=deciding is None or deciding.when == "after",
        wait_after=sum(fault.seconds for fault in fired if fault.when == "after"),
        fault=deciding,
        refused=refused,
    )


class Service(Protocol):
    """The methods of a service that `exchange` calls."""

    def plan_faults(self, verb: str, target: bytes, body: bytes = b"") -> FaultPlan:
        """Record a request, and return the plan for it."""
        ...

    def handle(self, verb: str, target: bytes, headers: Headers, body: bytes, *, number: int | None = None) -> Response:
        """Handle a request, and return the response."""
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
    """Handle a request according to its fault plan; return the response, and how the connection ends.

    The request takes effect even if the client disconnects during the wait, as on a real service.
    """
    plan = service.plan_faults(verb, target, body)
    answer = legacy_error(500, "nothing was done")
    try:
        if plan.wait_before:
            await sleep(plan.wait_before)
    finally:
        if plan.effect:
            answer = service.handle(verb, target, headers, body, number=plan.number)
    if plan.wait_after:
        await sleep(plan.wait_after)
    return plan.disguised(answer), plan.ending
