"""The steps that grant recorded payments, and reconcile those whose outcome is unknown."""

import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from anyio import Event, current_time, move_on_after, sleep

from tgmembership_async.errors import InvalidValue
from tgmembership_async.fulfillment.policy import FulfillmentPolicy
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import Grant, GrantRequest, GrantStatus
from tgmembership_async.grants.paging import planned_requests
from tgmembership_async.grants.reconciling import Finding

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")
_SHORTEST_PAUSE: Final = 1.0
"""Seconds between the beginnings of two rounds of reconciling, however many rows become unknown."""


class Granting:
    """Grants new payments as they are taken, and all planned rows at the start and every `every` seconds.

    `settled` is called with each row that has an outcome, `unknown` after an outcome that is unknown.
    """

    def __init__(
        self,
        granter: Granter,
        policy: FulfillmentPolicy,
        settled: Callable[[Grant], object],
        unknown: Callable[[], object],
        *,
        every: float,
    ) -> None:
        self._granter = granter
        self._policy = policy
        self._settled = settled
        self._unknown = unknown
        self._every = every
        self._taken: deque[GrantRequest] = deque()
        self._new: Event | None = None

    def take(self, request: GrantRequest) -> None:
        """Grant a planned row as soon as fewer than the policy's `concurrency` are in flight."""
        self._taken.append(request)
        if self._new is not None:
            self._new.set()

    async def step(self, *, all_rows: bool) -> None:  # noqa: ARG002 - it begins with all rows, and goes on
        """Grant payments until the run stops, and wait `every` seconds then."""
        # One run without end: a payment never waits for the slow exchange of another one.
        run = self._granter.provision(self._requests(), concurrency=self._policy.concurrency)
        async with run:
            async for grant in run:
                self._settled(grant)
                if isinstance(grant.error, InvalidValue):
                    _logger.error("%s cannot be granted, and stays planned: %s", grant.ref, grant.error)
                if grant.status is GrantStatus.UNKNOWN:
                    self._unknown()
        _logger.warning("granting is paused for %g s: %s", self._every, run.stopped)
        await sleep(self._every)

    async def _requests(self) -> AsyncGenerator[GrantRequest]:
        while True:
            self._taken.clear()  # they are among the planned rows
            async with aclosing(planned_requests(self._granter.ledger)) as planned:
                async for request in planned:
                    while self._taken:
                        yield self._taken.popleft()
                    yield request
            again_at = current_time() + self._every
            while (left := again_at - current_time()) > 0:
                while self._taken:
                    yield self._taken.popleft()
                self._new = Event()
                with move_on_after(left):
                    await self._new.wait()


class Reconciling:
    """Reconciles unknown rows, with backoff after each round; `settled` is called with each row that is settled."""

    def __init__(
        self, granter: Granter, policy: FulfillmentPolicy, settled: Callable[[Grant], object], *, every: float
    ) -> None:
        self._granter = granter
        self._policy = policy
        self._settled = settled
        self._every = every
        self._began_at = self._due_at = -math.inf
        self._pause = every

    def hurry(self) -> None:
        """Reconcile soon, and begin the backoff again: a row has become unknown."""
        self._pause = self._every
        self._due_at = min(self._due_at, self._began_at + _SHORTEST_PAUSE)

    async def step(self, *, all_rows: bool) -> None:  # noqa: ARG002 - a round asks about all
        """Reconcile unknown rows with the service, if a round is due."""
        wait = self._due_at - current_time()
        if wait > _SHORTEST_PAUSE:
            return
        await sleep(max(0.0, wait))
        self._began_at = current_time()
        self._due_at = self._began_at + self._pause
        self._pause = min(2 * self._pause, self._policy.backoff_cap)
        await self._granter.reconcile(on_finding=self._found)

    def _found(self, finding: Finding) -> None:
        if finding.settled:
            self._settled(finding.grant)
