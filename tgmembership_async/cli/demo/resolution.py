"""After the faults: reconcile and decide unknown grants, send the remaining ones, and count who has access."""

from collections import Counter
from pathlib import Path
from typing import Final

from attrs import frozen

from tgmembership_async.errors import APIError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import SUCCEEDED, Decision, Grant, GrantStatus
from tgmembership_async.grants.sqlite.ledger import SqliteLedger
from tgmembership_async.session import Session
from tgmembership_async.testing import FakeService

RULE: Final = "each customer who was granted joins at once here, so whoever is inside was granted, and nobody else"


@frozen
class Resolution:
    """The number of unknown grants by how they were resolved, and of all members by result.

    `reconcile` settled `settled` grants; `decided` were decided as granted, and `sent_again` as retry. Of all members,
    `inside` have access, and `refused` were refused for these reasons. `left` counts the others, and must be 0.
    """

    settled: int
    decided: int
    sent_again: int
    inside: int
    refused: Counter[str]
    left: int


async def resolve_all(service: FakeService, ledger: Path, base_url: str, concurrency: int) -> Resolution:
    """Let all customers with a grant join, resolve every unknown grant of the ledger, and return the counts."""
    options = service.session_options()
    session = Session(**options, base_url=base_url, proxy=None, max_connections=concurrency)
    async with Granter(session, SqliteLedger(ledger)) as granter:
        _join(service)
        settled = sum(finding.settled for finding in await granter.reconcile())
        held = [grant async for grant in granter.grants([GrantStatus.UNKNOWN])]
        entered = _entered(service)
        entered.subtract([_pair(grant) async for grant in granter.grants(SUCCEEDED)])
        decided = 0
        for grant in held:
            is_granted = entered[_pair(grant)] > 0
            entered[_pair(grant)] -= 1
            decided += is_granted
            decision: Decision = "granted" if is_granted else "retry"
            await granter.resolve(grant.ref, decision, reason=f"rule of the demo: {RULE}")
        await granter.run_planned(concurrency=concurrency)
        _join(service)
        rows = [grant async for grant in granter.grants()]
    entered = _entered(service)
    inside = sum(grant.status in SUCCEEDED and entered[_pair(grant)] > 0 for grant in rows)
    refused = Counter(_reason(grant) for grant in rows if grant.status is GrantStatus.REFUSED)
    return Resolution(settled, decided, len(held) - decided, inside, refused, len(rows) - inside - refused.total())


def _join(service: FakeService) -> None:
    """Redeem every unused token with a member."""
    for token in service.tokens:
        if token.used_by is None and token.member_id is not None:
            service.redeem(token.value)


def _entered(service: FakeService) -> Counter[tuple[int | None, int | str]]:
    """Return how often each member has entered by a token, for each plan."""
    return Counter((token.used_by, token.plan_id) for token in service.tokens if token.used_by is not None)


def _pair(grant: Grant) -> tuple[int | None, int | str]:
    return grant.member_id, grant.plan_id


def _reason(grant: Grant) -> str:
    return (grant.error.description if isinstance(grant.error, APIError) else None) or str(grant.error)
