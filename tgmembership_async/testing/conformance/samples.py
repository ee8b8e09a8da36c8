"""Sample values, assertions and steps for the checks of `LEDGER_CHECKS`."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from tgmembership_async.errors import BadRequest, CallError, GrantError, NotSent, OutcomeUnknown
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import (
    DECIDED_FROM,
    DECIDES,
    SETTLES,
    Decision,
    Grant,
    GrantRequest,
    GrantStatus,
    Settlement,
)
from tgmembership_async.values.models import AccessToken

MakeLedger = Callable[[], Ledger]
Step = Callable[[Ledger, str], Awaitable[object]]

TOKEN: Final = AccessToken(token="tök-1", link="https://t.me/shop_bot?start=tok-1", raw={"code": "tok-1", "uses": 1})  # noqa: S106 - a sample
A_UUID: Final = "11111111-1111-4111-8111-111111111111"
ANOTHER_UUID: Final = "22222222-2222-4222-8222-222222222222"
ERRORS: Final[Mapping[GrantStatus, CallError]] = {
    GrantStatus.PLANNED: NotSent("refused", method="addMember", attempts=4, elapsed=1.5),
    GrantStatus.REFUSED: BadRequest("no such plan", code=400, description="plan_id", method="addMember", attempts=1),
    GrantStatus.UNKNOWN: OutcomeUnknown(
        "no reply", method="addMember", maybe_applied=True, cause=NotSent("cut", elapsed=0.25)
    ),
}


def settlement(end: GrantStatus) -> Settlement:
    """Return a settlement with this status, and with a token, an error and evidence as far as it has them."""
    token = TOKEN if end is GrantStatus.GRANTED else None
    return Settlement(end, token=token, error=ERRORS.get(end), evidence=f"it ended as {end}")


def check_equal(found: object, expected: object) -> None:
    """Raise AssertionError unless both are equal. `assert` is not used because -O removes it."""
    if found != expected:
        msg = f"expected {expected!r}, found {found!r}"
        raise AssertionError(msg)


def check(condition: object, message: str) -> None:
    """Raise AssertionError with this message unless the condition is true."""
    if not condition:
        raise AssertionError(message)


async def check_raises(error: type[Exception], awaitable: Awaitable[object]) -> None:
    """Raise AssertionError unless awaiting raises an error of this class."""
    try:
        found = await awaitable
    except error:
        return
    msg = f"expected {error.__name__}, found {found!r}"
    raise AssertionError(msg)


@asynccontextmanager
async def opened(make: MakeLedger) -> AsyncGenerator[Ledger, None]:
    """Open a new ledger, and close it at the end."""
    ledger = await make().open()
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def refs_of(rows: AsyncIterator[Grant]) -> list[str]:
    """Return the refs of all rows, in their order."""
    return [grant.ref async for grant in rows]


def request(ref: str) -> GrantRequest:
    """Return a request that is the same for every ref."""
    return GrantRequest(ref, plan_id=1, member_id=42, note="chat 7")


async def bring_to(ledger: Ledger, ref: str, to: GrantStatus) -> Grant:
    """Plan a new ref, and bring it to a status by the fewest steps."""
    grant = await ledger.plan(request(ref))
    if to is GrantStatus.PLANNED:
        return grant
    grant = (await ledger.claim(request(ref))).grant
    if to is GrantStatus.SENDING:
        return grant
    first = {GrantStatus.DELIVERED: GrantStatus.GRANTED, GrantStatus.ABANDONED: GrantStatus.UNKNOWN}.get(to, to)
    grant = await ledger.settle(ref, settlement(first))
    if to is GrantStatus.DELIVERED:
        return await ledger.mark_delivered(ref)
    return await ledger.decide(ref, "abandon", None, "") if to is GrantStatus.ABANDONED else grant


async def claim_it(ledger: Ledger, ref: str) -> object:
    """Claim a ref. Raises GrantError if the claim is not mine."""
    claim = await ledger.claim(request(ref))
    if not claim.mine:
        msg = "another caller has claimed the grant"
        raise GrantError(msg)
    return claim.grant


async def _settle(ledger: Ledger, ref: str, *, end: GrantStatus) -> object:
    return await ledger.settle(ref, settlement(end))


async def _decide(ledger: Ledger, ref: str, *, decision: Decision) -> object:
    return await ledger.decide(ref, decision, None, "because")


async def _deliver(ledger: Ledger, ref: str) -> object:
    return await ledger.mark_delivered(ref)


def steps() -> Iterable[tuple[Step, frozenset[GrantStatus], GrantStatus]]:
    """Return every step with the statuses from which it is legal, and the status to which it leads."""
    yield claim_it, frozenset({GrantStatus.PLANNED}), GrantStatus.SENDING
    for end in SETTLES:
        yield partial(_settle, end=end), frozenset({GrantStatus.SENDING}), end
    for decision, end in DECIDES.items():
        yield partial(_decide, decision=decision), DECIDED_FROM[decision], end
    yield _deliver, frozenset({GrantStatus.GRANTED, GrantStatus.DELIVERED}), GrantStatus.DELIVERED


async def plan_all(ledger: Ledger, refs: Iterable[str]) -> None:
    """Plan refs in order."""
    for ref in refs:
        await ledger.plan(request(ref))
