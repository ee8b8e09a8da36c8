"""`HasAccess`: a filter and a middleware that let an update through if its user has access to a plan."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, overload

from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.filters import Filter
from aiogram.types import TelegramObject

from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.errors import CallError
from tgmembership_async.fulfillment.integration import ACCESS_NAME
from tgmembership_async.protocol.endpoints import check_plan_id

_NAME: Final = "has_access"
_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


class HasAccess(Filter):
    """Let an update through if its user has access to a plan, or to any if `plan_id` is None.

    A filter for one handler, `router.message.register(lesson, HasAccess(1))`, and a middleware for all handlers of a
    router, `router.message.middleware(HasAccess(1))`; an update that it does not let through is left to other routers.

    The Access is passed to parameters named `has_access`. While the service is down an older answer is used, as
    AccessCheck describes; without one the update is not let through, and a WARNING gives the reason. It needs `setup`,
    or an AccessCheck under the name `access` in the dispatcher's data.
    """

    def __init__(self, plan_id: int | str | None = None) -> None:
        self._plan_id = None if plan_id is None else check_plan_id(plan_id)

    @overload
    async def __call__(self, event: TelegramObject, /, **data: Any) -> bool | dict[str, Access]: ...
    @overload
    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any], /) -> Any: ...
    async def __call__(self, /, *args: Any, **data: Any) -> Any:
        """Filter the event; or, with a handler, the event and its data, call the handler unless it is filtered."""
        if len(args) == 1:
            found = await self._found(data)
            return {_NAME: found} if found else False
        handler, event, data = args
        found = await self._found(data)
        return await handler(event, {**data, _NAME: found}) if found else UNHANDLED

    async def _found(self, data: dict[str, Any]) -> Access | None:
        check: AccessCheck = data[ACCESS_NAME]
        user = data.get("event_from_user")
        if user is None:
            return None
        try:
            found = await check(user.id, self._plan_id)
        except CallError as error:
            _logger.warning("whether user %d has access is not known, and it is denied: %s", user.id, error)
            return None
        return found or None
