"""Parse large replies in a worker thread, in slices, so that neither the event loop nor the deadline is held up.

Small replies are parsed on the event loop, which takes less time than a thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import CancelScope, current_time, fail_after, from_thread, to_thread
from attrs import evolve

from tgmembership_async.protocol.envelope import parse_in_slices
from tgmembership_async.protocol.structuring.results import in_slices
from tgmembership_async.protocol.wire import Request, Response, Safety

T = TypeVar("T")


async def opened(response: Response, request: Request) -> Response:
    """Return an answer that takes long with its envelope read already.

    The envelope of an unsafe call is parsed to the end, so that the deadline cannot discard a known outcome.
    """
    if response.truncated:
        return response
    with CancelScope(shield=request.safety is Safety.UNSAFE):
        response = await _in_thread(partial(_with_envelope, response))
    return response  # noqa: RET504 - a scope may swallow a cancellation, as far as type checkers know


def _with_envelope(response: Response) -> Response:
    envelope = response.read_with(lambda body: parse_in_slices(body, _stop_if_abandoned, response.dialect))
    return evolve(response, parsed=(response.body, envelope))


async def structured(convert: Callable[[Any], T], result: Any, request: Request) -> T:
    """Structure a large result in a thread. Raise TimeoutError at the deadline, unless the call is unsafe."""
    left = None if request.safety is Safety.UNSAFE else request.progress.deadline - current_time()
    with fail_after(left):
        return await _in_thread(lambda: in_slices(convert, result, _stop_if_abandoned))


async def _in_thread(work: Callable[[], T]) -> T:
    return await to_thread.run_sync(work, abandon_on_cancel=True)


def _stop_if_abandoned() -> None:
    from_thread.check_cancelled()
