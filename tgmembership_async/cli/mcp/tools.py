"""The tools of the assistant. Their docstrings are what it reads about them; they return values, not yet marked."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from anyio.to_thread import run_sync
from attrs import asdict, frozen

from tgmembership_async.access.check import AccessCheck
from tgmembership_async.cli.doctor.command import Doctor
from tgmembership_async.cli.grants.view import attempt_fields, decision_fields
from tgmembership_async.cli.ledger_option import Place, opened
from tgmembership_async.cli.mcp.answers import grant_of, keys_of, marked, model_of
from tgmembership_async.cli.report.figures import rows_of as figures_of
from tgmembership_async.cli.report.sources import sales
from tgmembership_async.errors import GrantError, UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import UNDECIDED, Decision, Grant
from tgmembership_async.session import Session

Tool = Callable[..., Awaitable[dict[str, Any]]]
MOST_ROWS: Final = 1_000
LONGEST_REASON: Final = 1_000
DECIDED_BY: Final = "assistant: "
"""Precedes the reason of a decision in the ledger, so that nobody takes it for one that a person typed."""
_logger: Final = logging.getLogger("tgmembership_async.cli.mcp")


@frozen
class Tools:
    """The tools for the bot of an open Session and, with a ledger, for its grants. Every call opens the ledger anew."""

    session: Session
    ledger: Place | None
    links: bool

    def reads(self) -> list[Tool]:
        """Return the tools that change nothing."""
        of_grants: list[Tool] = [self.held_grants, self.owed_grants, self.grant_history]
        asking: list[Tool] = [self.plans, self.subscribers, self.access, self.sales, self.doctor]
        return asking if self.ledger is None else [*asking, *of_grants]

    def decisions(self) -> list[Tool]:
        """Return the tools that change the ledger."""
        return [] if self.ledger is None else [self.resolve]

    async def plans(self) -> dict[str, Any]:
        """List the plans of the bot, with price and duration."""
        return self._marked([model_of(plan, links=self.links) for plan in await self.session.get_plans()])

    async def subscribers(self, user_id: int | None = None, limit: int = 100) -> dict[str, Any]:
        """List the subscriptions of the bot, or those of one Telegram user. Times are in UTC.

        `limit` is the maximum number of rows, 1,000 at most; `more` is how many were left out.
        """
        found = await self.session.get_subscribers(user_id)
        rows = [model_of(one, links=self.links) for one in found[: _limited(limit)]]
        return self._marked({"rows": rows, "more": len(found) - len(rows)})

    async def access(self, user_id: int, plan_id: int | None = None) -> dict[str, Any]:
        """Tell whether a Telegram user has access now, to one plan or to any, and until when (UTC)."""
        found = await AccessCheck(self.session)(user_id, plan_id)
        return self._marked(asdict(found, recurse=False))

    async def sales(self) -> dict[str, Any]:
        """Show what was sold: numbers of orders and users, revenue, orders and revenue by plan, payment methods.

        Amounts in different currencies cannot be added. A row with a `problem` names a figure that is missing.
        """
        return self._marked(list(figures_of(await sales(self.session))))

    async def doctor(self) -> dict[str, Any]:
        """Check credentials, network, clock, ledger file, and the shape of the service's replies. Changes nothing."""
        doctor = Doctor(ledger=self.ledger)
        return self._marked([asdict(check) for check in await run_sync(lambda: list(doctor.checks()))])

    async def held_grants(self, limit: int = 100, after: str | None = None) -> dict[str, Any]:
        """List the grants that only a person can decide: the outcome is unknown, or the service refused.

        `limit` is the maximum number of rows, 1,000 at most; `more` tells whether there are others. `after` is the ref
        of the last row of the page before.
        """
        return await self._listed(lambda granter: granter.grants(UNDECIDED, after=after), limit)

    async def owed_grants(self, limit: int = 100, after: str | None = None) -> dict[str, Any]:
        """List the grants of those who paid and have no link yet: all that are not delivered and not abandoned.

        A granted one waits for its delivery, a planned one to be sent, an unknown or refused one for a decision.
        `limit` is the maximum number of rows, 1,000 at most; `more` tells whether there are others. `after` is the ref
        of the last row of the page before.
        """
        return await self._listed(lambda granter: granter.owed(after=after), limit)

    async def grant_history(self, ref: str) -> dict[str, Any]:
        """Show one grant with all attempts, their evidence, and all decisions. `ref` is the id of the payment."""
        async with self._granter() as granter:
            grant = await granter.get(ref)
            if grant is None:
                msg = "this ledger has no grant with this ref"
                raise GrantError(msg)
            attempts, decisions = await granter.ledger.attempts(ref), await granter.ledger.decisions(ref)
        history = {"attempts": list(map(attempt_fields, attempts)), "decisions": list(map(decision_fields, decisions))}
        return self._marked({"grant": grant_of(grant, links=self.links), **history}, grant)

    async def resolve(self, ref: str, decision: Decision, reason: str) -> dict[str, Any]:
        """Decide about an unknown or refused grant, or abandon a planned one. Ask your user before; it is about money.

        `granted`: the customer has access. `retry`: it is sent again with the next run; if the first attempt took
        effect, the customer gets a second token. `abandon`: no access is granted for this ref, now or later. `reason`
        says on which evidence your user decided; it is kept in the ledger with the time.
        """
        if not reason.strip() or len(reason) > LONGEST_REASON:
            msg = f"give the reason of the decision, in at most {LONGEST_REASON:,} characters"
            raise UsageError(msg)
        async with self._granter() as granter:
            grant = await granter.resolve(ref, decision, reason=f"{DECIDED_BY}{reason.strip()}")
        return self._marked(grant_of(grant, links=self.links), grant)

    async def _listed(self, rows_of: Callable[[Granter], AsyncIterator[Grant]], limit: int) -> dict[str, Any]:
        most, found, more = _limited(limit), list[Grant](), False
        async with self._granter() as granter:
            async for grant in rows_of(granter):
                if more := len(found) == most:
                    break
                found.append(grant)
        rows = [grant_of(grant, links=self.links) for grant in found]
        return self._marked({"rows": rows, "more": more}, *found)

    @asynccontextmanager
    async def _granter(self) -> AsyncGenerator[Granter]:
        """Yield a Granter on this bot's rows, beside the program that owns the ledger."""
        if self.ledger is None:
            msg = "start the server with --ledger"
            raise UsageError(msg)
        async with opened(self.ledger, owner=False) as rows, Granter(self.session, rows) as granter:
            yield granter

    def _marked(self, value: object, *grants: Grant) -> dict[str, Any]:
        return marked(value, links=self.links, secrets=[key for grant in grants for key in keys_of(grant)])


def _limited(limit: int) -> int:
    if not 1 <= limit <= MOST_ROWS:
        msg = f"limit must be from 1 to {MOST_ROWS:,}"
        raise UsageError(msg)
    return limit
