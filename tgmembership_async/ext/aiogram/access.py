"""`HasAccess`: a filter that lets an update through if its user has access to a plan."""

import logging
from typing import Final

from aiogram.filters import Filter
from aiogram.types import TelegramObject, User

from tgmembership_async.access import Access, AccessCheck
from tgmembership_async.errors import CallError
from tgmembership_async.protocol.endpoints import check_id

_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")


class HasAccess(Filter):
    """Let an update through if its user has access to a plan, or to any if `plan_id` is None.

    The Access is handed on by the parameter name `has_access`. While the service is down an older answer serves, as
    AccessCheck says; where there is none the update does not pass, and a WARNING says why. It needs `setup`, or an
    AccessCheck under the name `access` in the dispatcher's data.
    """

    def __init__(self, plan_id: int | None = None) -> None:
        self._plan_id = None if plan_id is None else check_id("plan_id", plan_id)

    async def __call__(
        self, _: TelegramObject, access: AccessCheck, event_from_user: User | None = None
    ) -> bool | dict[str, Access]:
        """Return whether the update passes, with the Access if it does."""
        if event_from_user is None:
            return False
        try:
            found = await access(event_from_user.id, self._plan_id)
        except CallError as error:
            _logger.warning("whether user %d has access is not known, and it is denied: %s", event_from_user.id, error)
            return False
        return {"has_access": found} if found else False
