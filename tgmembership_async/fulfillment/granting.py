"""The steps that grant recorded payments, and reconcile those whose outcome is unknown."""

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from anyio import current_time

from tgmembership_async.fulfillment.policy import FulfillmentPolicy
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import GrantRequest, GrantStatus
from tgmembership_async.grants.reconciling import Finding

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")


class Granting:
    """Grants new payments, and all planned rows every `every` seconds.

    `settled` is called with each ref that has an outcome, `unknown` after a step in which an outcome is unknown.
    """

    def __init__(
        self,
        granter: Granter,
        policy: FulfillmentPolicy,
        settled: Callable[[str], object],
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

    def take(self, request: GrantRequest) -> None:
        """Grant a planned row in the next step."""
        self._taken.append(request)

    async def step(self, *, all_rows: bool) -> None:
        """Grant the newly recorded payments, or all planned ones."""
        taken = [self._taken.popleft() for _ in range(len(self._taken))]
        concurrency = self._policy.concurrency
        run = (
            self._granter.run_planned(concurrency=concurrency)
            if all_rows
            else self._granter.provision(taken, concurrency=concurrency)
        )
        held = False
        async with run:
            async for grant in run:
                held = held or grant.status is GrantStatus.UNKNOWN
                self._settled(grant.ref)
        if run.stopped is not None:
            _logger.warning("granting is paused for %g s: %s", self._every, run.stopped)
        if held:
            self._unknown()


class Reconciling:
    """Reconciles unknown rows, with backoff after each round; `settled` is called with each ref that is settled."""

    def __init__(
        self, granter: Granter, policy: FulfillmentPolicy, settled: Callable[[str], object], *, every: float
    ) -> None:
        self._granter = granter
        self._policy = policy
        self._settled = settled
        self._every = every
        self._due_at = -math.inf
        self._pause = every

    def hurry(self) -> None:
        """Reconcile in the next step, and begin the backoff again: a row has become unknown."""
        self._due_at, self._pause = -math.inf, self._every

    async def step(self, *, all_rows: bool) -> None:  # noqa: ARG002 - a round asks about all
        """Reconcile unknown rows with the service, if a round is due."""
        if current_time() < self._due_at:
            return
        self._due_at = current_time() + self._pause
        self._pause = min(2 * self._pause, self._policy.backoff_cap)
        await self._granter.reconcile(on_finding=self._found)

    def _found(self, finding: Finding) -> None:
        if finding.settled:
            self._settled(finding.grant.ref)
