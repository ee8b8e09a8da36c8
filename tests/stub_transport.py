"""A transport scripted by the test: one step per request, a Response, an exception, or a coroutine function."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from tgmembership_async import Headers, Request, Response, TransportFailure

Step = Response | BaseException | Callable[[Request], Awaitable[Response]]


def reply(body: str = '{"ok": true, "code": 200, "result": []}', status: int = 200, **headers: str) -> Response:
    fields = Headers.of({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status, fields, body.encode())


def not_sent() -> TransportFailure:
    return TransportFailure("ConnectError: refused", connecting=True)


def lost() -> TransportFailure:
    return TransportFailure("ReadError")


class StubTransport:
    """Run one step per request, repeating the last; set `begun` as a real transport does."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps) or [reply()]
        self.requests: list[Request] = []
        self.closed = 0

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        step: Any = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        request.progress.begun = not (isinstance(step, TransportFailure) and step.connecting)
        if isinstance(step, BaseException):
            raise step
        if inspect.iscoroutinefunction(step):
            answer: Response = await step(request)
            return answer
        return step  # type: ignore[no-any-return]  # a Response

    async def aclose(self) -> None:
        self.closed += 1
