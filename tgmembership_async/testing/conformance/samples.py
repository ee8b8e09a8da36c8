"""What the checks of `LEDGER_CHECKS` are written with: samples, expectations, and the way to every state."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from tgmembership_async.errors import BadRequest, CallError, GrantError, NotSent, OutcomeUnknown
from tgmembership_async.grants.ledger import Ledger
from tgmembership_async.grants.model import (
    DECIDES,
    SETTLES,
    UNDECIDED,
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
ERRORS: Final[Mapping[GrantStatus, CallError]] = {
    GrantStatus.PLANNED: NotSent("refused", method="addMember", attempts=4, elapsed=1.5),
    GrantStatus.REFUSED: BadRequest("no such plan", code=400, description="plan_id", method="addMember", attempts=1),
    GrantStatus.UNKNOWN: OutcomeUnknown(
        "no reply", method="addMember", maybe_applied=True, cause=NotSent("cut", elapsed=0.25)
    ),
}


def settlement(end: GrantStatus) -> Settlement:
    """Return an end of an exchange, with token, error and evidence."""
    token = TOKEN if end is GrantStatus.GRANTED else None
    return Settlement(end, token=token, error=ERRORS.get(end), evidence=f"it ended as {end}")


def same(found: object, expected: object) -> None:
    """Raise AssertionError unless the two are equal; not by assert, which -O leaves out."""
    if found != expected:
        msg = f"expected {expected!r}, found {found!r}"
        raise AssertionError(msg)


def true(claim: object, what: str) -> None:
    """Raise AssertionError that says what is wrong, unless the claim holds."""
    if not claim:
        raise AssertionError(what)


async def raises(error: type[Exception], awaitable: Awaitable[object]) -> None:
    """Raise AssertionError unless awaiting raises an error of this class."""
    try:
        found = await awaitable
    except error:
        return
    msg = f"expected {error.__name__}, found {found!r}"
    raise AssertionError(msg)


@asynccontextmanager
async def opened(make: MakeLedger) -> AsyncGenerator[Ledger, None]:
    """Give a ledger that is open, and close it at the end."""
    ledger = await make().open()
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def refs_of(rows: AsyncIterator[Grant]) -> list[str]:
    """Return the refs of all rows, as they come."""
    return [grant.ref async for grant in rows]


def request(ref: str) -> GrantRequest:
    """Return the same wish for any ref."""
    return GrantRequest(ref, plan_id=1, member_id=42, note="chat 7")


async def bring(ledger: Ledger, ref: str, to: GrantStatus) -> Grant:
    """Take a new ref to a state on the shortest way."""
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
    """Claim as a step like the others: one that is not mine is an error."""
    claim = await ledger.claim(request(ref))
    if not claim.mine:
        msg = "not mine"
        raise GrantError(msg)
    return claim.grant


async def _settle(ledger: Ledger, ref: str, *, end: GrantStatus) -> object:
    return await ledger.settle(ref, settlement(end))


async def _decide(ledger: Ledger, ref: str, *, decision: Decision) -> object:
    return await ledger.decide(ref, decision, None, "because")


async def _deliver(ledger: Ledger, ref: str) -> object:
    return await ledger.mark_delivered(ref)


def steps() -> Iterable[tuple[Step, frozenset[GrantStatus], GrantStatus]]:
    """Return every step with the states that it leads out of, and the one it leads to."""
    yield claim_it, frozenset({GrantStatus.PLANNED}), GrantStatus.SENDING
    for end in SETTLES:
        yield partial(_settle, end=end), frozenset({GrantStatus.SENDING}), end
    for decision, end in DECIDES.items():
        yield partial(_decide, decision=decision), UNDECIDED, end
    yield _deliver, frozenset({GrantStatus.GRANTED, GrantStatus.DELIVERED}), GrantStatus.DELIVERED


async def plan_all(ledger: Ledger, refs: Iterable[str]) -> None:
    """Plan refs one after the other."""
    for ref in refs:
        await ledger.plan(request(ref))
