"""aiogram 3: a bot that sells access, delivers the links, and asks its owner for decisions.

    fulfillment = Fulfillment(granter, deliver=deliver_link(bot), attention=ask_owner(bot, owner_ids))
    setup(dispatcher, session, fulfillment=fulfillment)
    dispatcher.include_routers(shop_router(), owner_router(owner_ids))
    dispatcher.run_polling(bot, handle_as_tasks=False)

`setup` alone gives handlers of your own what they need, by parameter name; each of the other parts works without the
rest.

By default, polling confirms updates before their handlers have run, so they are lost if the process ends.
`handle_as_tasks=False` confirms an update only when its handler has returned, and
`SimpleRequestHandler(..., handle_in_background=False)` does the same for webhooks.
"""

from tgmembership_async.extras import missing
from tgmembership_async.fulfillment.integration import (
    ACCESS_NAME,
    FULFILLMENT_NAME,
    GRANTER_NAME,
    PROJECT_NAME,
    SESSION_NAME,
)

try:
    from tgmembership_async.ext.aiogram.access import HasAccess
    from tgmembership_async.ext.aiogram.customers import deliver_link
    from tgmembership_async.ext.aiogram.lifespan import setup
    from tgmembership_async.ext.aiogram.owner import ask_owner, owner_router
    from tgmembership_async.ext.aiogram.shop import shop_router
    from tgmembership_async.ext.aiogram.texts import Texts
except ModuleNotFoundError as _error:
    raise missing(__name__, "aiogram", _error) from None

__all__ = [
    "ACCESS_NAME",
    "FULFILLMENT_NAME",
    "GRANTER_NAME",
    "PROJECT_NAME",
    "SESSION_NAME",
    "HasAccess",
    "Texts",
    "ask_owner",
    "deliver_link",
    "owner_router",
    "setup",
    "shop_router",
]
