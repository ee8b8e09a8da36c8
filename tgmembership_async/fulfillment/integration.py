"""The objects that a framework integration opens with the application, closes after it, and passes to handlers."""

from contextlib import AsyncExitStack
from typing import Any, Final, Self

from attrs import frozen

from tgmembership_async.access import AccessCheck
from tgmembership_async.errors import UsageError
from tgmembership_async.fulfillment.fulfillment import Fulfillment
from tgmembership_async.grants.granter import Granter
from tgmembership_async.project import Project
from tgmembership_async.session import Session
from tgmembership_async.storage.sqlite.database import waiting_for_owners

SESSION_NAME: Final = "tgm"
PROJECT_NAME: Final = "project"
GRANTER_NAME: Final = "granter"
FULFILLMENT_NAME: Final = "fulfillment"
ACCESS_NAME: Final = "access"
NAMES: Final = frozenset({SESSION_NAME, GRANTER_NAME, FULFILLMENT_NAME, ACCESS_NAME})


@frozen
class Parts:
    """A Session or a Project, and perhaps a Granter and a Fulfillment that work with it."""

    client: Session | Project
    granter: Granter | None
    fulfillment: Fulfillment | None

    @classmethod
    def checked(cls, function: str, client: object, granter: object, fulfillment: object) -> Self:
        """Return the arguments of `function`, or raise UsageError; without a Granter it is that of the Fulfillment."""
        if granter is None and isinstance(fulfillment, Fulfillment):
            granter = fulfillment.granter
        if not isinstance(client, Session | Project) or not isinstance(granter, Granter | None):
            msg = f"{function} takes a Session or a Project and, if you grant with a ledger, a Granter"
            raise UsageError(msg)
        if not isinstance(fulfillment, Fulfillment | None):
            msg = f"fulfillment must be a Fulfillment or None, not {type(fulfillment).__name__}"
            raise UsageError(msg)
        if fulfillment is not None and fulfillment.granter is not granter:
            msg = f"the Fulfillment works with another Granter than the one given: give {function} the same"
            raise UsageError(msg)
        return cls(client, granter, fulfillment)

    def by_name(self) -> dict[str, Any]:
        """Return the parts that there are, and an AccessCheck of the client, under the names that handlers use."""
        name = SESSION_NAME if isinstance(self.client, Session) else PROJECT_NAME
        parts = {name: self.client, GRANTER_NAME: self.granter, FULFILLMENT_NAME: self.fulfillment}
        return {name: part for name, part in parts.items() if part is not None} | {
            ACCESS_NAME: AccessCheck(self.client)
        }

    async def open(self, stack: AsyncExitStack, wait: float) -> None:
        """Open the parts that are not open; a ledger in a file waits `wait` seconds for the process that has it."""
        # The outermost first: a Granter that has opened its client can also end it early, when only backoff is left.
        with waiting_for_owners(wait):
            for part in (self.fulfillment, self.granter, self.client):
                if part is not None and not part.is_open:
                    await stack.enter_async_context(part)
