"""aiogram 3: the Session and the Granter live as long as the bot, and handlers get them by parameter name.

    setup(dispatcher, Session.from_env(), granter)

    @dispatcher.message(F.successful_payment)
    async def paid(message: Message, granter: Granter) -> None: ...

Polling hands out updates as tasks and tells Telegram at once that it has them: what dies with the process is then lost.
`dispatcher.start_polling(bot, handle_as_tasks=False)` confirms an update only when its handler has returned, and
`SimpleRequestHandler(..., handle_in_background=False)` does the same for webhooks.
"""

from contextlib import AsyncExitStack
from typing import Final

from aiogram import Dispatcher, Router

from tgmembership_async.errors import UsageError
from tgmembership_async.grants.granter import Granter
from tgmembership_async.session import Session

SESSION_NAME: Final = "tgm"
GRANTER_NAME: Final = "granter"


def setup(dispatcher: Dispatcher, session: Session, granter: Granter | None = None) -> None:
    """Open `session` and `granter` with the bot, close them after it, and hand them to whoever has a parameter `tgm` or
    `granter`: handlers, filters, middlewares, hooks for startup and shutdown.

    It opens them before the first hook of the bot and closes them after the last one, and leaves alone what you have
    opened yourself. Polling and webhooks are alike. Call it once, before the bot starts; raises UsageError otherwise.
    """  # noqa: D205 - the names are the contract
    given = {SESSION_NAME: session} if granter is None else {SESSION_NAME: session, GRANTER_NAME: granter}
    _check(dispatcher, session, granter)
    opened = AsyncExitStack()

    async def open_all() -> None:
        # First the Granter: a Session that it opened it can also end early, when only backoff is left to wait for.
        for part in (granter, session):
            if part is not None and not part.is_open:
                await opened.enter_async_context(part)
        _last(dispatcher).shutdown.register(opened.aclose)

    async def open_or_nothing() -> None:
        try:
            await open_all()
        except BaseException:
            await opened.aclose()
            raise

    dispatcher.workflow_data.update(given)
    dispatcher.startup.register(open_or_nothing)
    dispatcher.startup.handlers.insert(0, dispatcher.startup.handlers.pop())


def _last(router: Router) -> Router:
    """Return the router whose hooks run last: each one's own come before those of its sub-routers."""
    while router.sub_routers:
        router = router.sub_routers[-1]
    return router


def _check(dispatcher: object, session: object, granter: object) -> None:
    if not isinstance(dispatcher, Dispatcher):
        msg = f"setup takes aiogram's Dispatcher first, not {type(dispatcher).__name__}"
        raise UsageError(msg)
    if not isinstance(session, Session) or not isinstance(granter, Granter | None):
        msg = "setup takes a Session and, if you grant with a ledger, a Granter: setup(dispatcher, session, granter)"
        raise UsageError(msg)
    taken = sorted({SESSION_NAME, GRANTER_NAME} & dispatcher.workflow_data.keys())
    if taken:
        msg = f"this Dispatcher has data under {' and '.join(taken)} already: call setup once, and free these names"
        raise UsageError(msg)
