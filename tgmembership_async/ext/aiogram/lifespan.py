"""`setup`: open what the bot needs when it starts, close it when it stops, and pass it to handlers as parameters."""

from contextlib import AsyncExitStack
from typing import Final

from aiogram import Dispatcher, Router

from tgmembership_async.errors import UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.fulfillment.integration import FULFILLMENT_NAME, NAMES, SESSION_NAME, Parts
from tgmembership_async.grants.granter import Granter
from tgmembership_async.project import Project
from tgmembership_async.session import Session

_WAIT: Final = 30.0  # seconds to wait until the bot that is being replaced has closed its ledger


def setup(
    dispatcher: Dispatcher,
    session: Session | Project,
    granter: Granter | None = None,
    *,
    fulfillment: Fulfillment | None = None,
) -> None:
    """Open `session`, `granter` and `fulfillment` with the bot, close them after it, and pass them as the parameters
    `tgm`, `granter`, `fulfillment` and `access` of handlers, filters, middlewares and hooks. A Project is passed as
    `project` in place of `tgm`; a `shop_router` needs a Session.

    It opens them before the first hook of the bot and closes them after the last one, and leaves alone what you have
    opened yourself. A shutdown hook that closes what `deliver` uses awaits `fulfillment.stop()` first. `access` is an
    AccessCheck of the session, which `HasAccess` uses too. A ledger in a file waits up to 30 seconds for the process
    that has it to end, unless it was built with a `wait` of its own. Polling and webhooks are alike. Call it once,
    before the bot starts; raises UsageError otherwise.
    """  # noqa: D205 - the names are the contract
    if not isinstance(dispatcher, Dispatcher):
        msg = f"setup takes aiogram's Dispatcher first, not {type(dispatcher).__name__}"
        raise UsageError(msg)
    parts = Parts.checked("setup(dispatcher, session, granter)", session, granter, fulfillment)
    named = parts.by_name()
    taken = sorted((NAMES | named.keys()) & dispatcher.workflow_data.keys())
    if taken:
        msg = f"this Dispatcher has data under {' and '.join(taken)} already: call setup once, and free these names"
        raise UsageError(msg)
    opened = AsyncExitStack()

    async def open_all() -> None:
        await parts.open(opened, _WAIT)
        _last(dispatcher).shutdown.register(opened.aclose)

    async def open_or_nothing() -> None:
        try:
            await open_all()
        except BaseException:
            await opened.aclose()
            raise

    dispatcher.workflow_data.update(named)
    dispatcher.startup.register(open_or_nothing)
    dispatcher.startup.handlers.insert(0, dispatcher.startup.handlers.pop())


def _last(router: Router) -> Router:
    """Return the router whose hooks run last: each one's own come before those of its sub-routers."""
    while router.sub_routers:
        router = router.sub_routers[-1]
    return router


async def require_fulfillment(router: Router) -> None:
    """Raise UsageError at the start of a bot that could not record what its customers pay."""
    if not isinstance(_part(router, FULFILLMENT_NAME), Fulfillment):
        msg = "this bot has no Fulfillment: call setup(dispatcher, session, fulfillment=...) before it starts"
        raise UsageError(msg)


async def require_session(router: Router) -> None:
    """Raise UsageError at the start of a bot that could not read the plans that it sells."""
    if not isinstance(_part(router, SESSION_NAME), Session):
        msg = "the shop of this bot has no Session to read plans with: call setup(dispatcher, session, fulfillment=...)"
        raise UsageError(msg)


def _part(router: Router, name: str) -> object:
    while router.parent_router is not None:
        router = router.parent_router
    return router.get(name) if isinstance(router, Dispatcher) else None
