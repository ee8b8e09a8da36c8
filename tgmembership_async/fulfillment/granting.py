"""The step that grants recorded payments, and reconciles those whose outcome is unknown."""

import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from anyio import current_time

from tgmembership_async.fulfillment.policy import FulfillmentPolicy
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import GrantRequest, GrantStatus

_logger: Final = logging.getLogger("tgmembership_async.fulfillment")


class Granting:
    """Grants new payments, and all planned rows every `every` seconds; `settled` gets each ref that has an outcome."""

    def __init__(
        self, granter: Granter, policy: FulfillmentPolicy, settled: Callable[[str], object], *, every: float
    ) -> None:
        self._granter = granter
        self._policy = policy
        self._settled = settled
        self._every = every
        self._taken: deque[GrantRequest] = deque()
        self._reconcile_at = -math.inf
        self._reconcile_pause = every

    def take(self, request: GrantRequest) -> None:
        """Grant a planned row in the next step."""
        self._taken.append(request)

    async def step(self, *, all_rows: bool) -> None:
        """Grant the newly recorded payments, or all planned ones, and reconcile unknown rows."""
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
        await self._reconcile(at_once=held)

    async def _reconcile(self, *, at_once: bool) -> None:
        """Reconcile unknown rows with the service, with backoff after each time."""
        if at_once:
            self._reconcile_pause = self._every
        elif current_time() < self._reconcile_at:
            return
        for finding in await self._granter.reconcile():
            if finding.settled:
                self._settled(finding.grant.ref)
        self._reconcile_at = current_time() + self._reconcile_pause
        self._reconcile_pause = min(2 * self._reconcile_pause, self._policy.backoff_cap)
