"""The join: the user and the plan of a payment. `payment-request.completed` names neither, so the project is asked.

*Documented*: the event is also sent for top-ups, events are unordered, so that the membership may come later, and a
membership has a `payment_request_id`. What `request_type` says of a top-up is *assumed*. All of this was never run by
us against the live service.
"""

import logging
from contextlib import aclosing
from typing import Any, ClassVar, Final

from anyio import move_on_after
from attrs import field, fields, frozen

from tgmembership_async.errors import NotFound, TGMembershipError, UsageError
from tgmembership_async.project.client import Project
from tgmembership_async.project.models import Membership, PaymentRequest
from tgmembership_async.protocol.endpoints import check_uuid
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.webhooks.events import Event, PaymentRequestCompleted

_logger: Final = logging.getLogger("tgmembership_async.webhooks")
_TOP_UP_WORDS: Final = ("topup", "balance", "deposit", "refill")
_LONGEST_REASON: Final = 300


@frozen(kw_only=True)
class MembershipPaid(PaymentRequestCompleted):
    """A user has paid for a membership, and the membership exists.

    `user_id` is a Telegram id. `amount` is that of the event, or that of the payment request if the event has none.
    `membership` is the one that names this payment request, as it was when the project was asked.
    """

    user_id: int
    plan_id: str | None = None
    plan_name: str | None = None
    membership: Membership = field(repr=False)
    payment_request: PaymentRequest = field(repr=False)


@frozen(kw_only=True)
class BalanceToppedUp(PaymentRequestCompleted):
    """A user has paid into the balance. `user_id` is a Telegram id, `amount` as in `MembershipPaid`.

    A payment request without a plan whose `request_type` says so is a top-up; the words are *assumed*.
    """

    user_id: int
    payment_request: PaymentRequest = field(repr=False)


@frozen(kw_only=True)
class PaymentUnexplained(PaymentRequestCompleted):
    """A payment whose user or membership the project could not name in time. A person must look into it.

    `reason` says what was missing. `user_id`, `plan_id` and `payment_request` are what is known all the same. If no
    handler takes this event, it is a failed attempt, so that the delivery becomes a dead letter and is not lost.
    """

    needs_handler: ClassVar[bool] = True

    reason: str
    user_id: int | None = None
    plan_id: str | None = None
    payment_request: PaymentRequest | None = field(default=None, repr=False)


@frozen
class _Missing:
    """Missing data. If it is `final`, asking again cannot help."""

    reason: str
    payment_request: PaymentRequest | None = None
    final: bool = False


class PaymentJoin:
    """Asks a project about payments, each time for at most `timeout` seconds. Opens the project unless it is open."""

    def __init__(self, project: Project, *, timeout: float) -> None:
        self._project = project
        self._timeout = timeout
        self._opened_project = False

    async def open(self) -> None:
        """Open the project unless it is open."""
        if not self._project.is_open:
            await self._project.open()
            self._opened_project = True

    async def aclose(self) -> None:
        """Close the project if it was opened here."""
        if self._opened_project:
            self._opened_project = False
            await self._project.aclose()

    async def explain(self, event: Event, *, may_wait: bool) -> Event | str:
        """Return the event that says who has paid for what; other events are returned as they are.

        If that is not known yet, return the reason for waiting, or PaymentUnexplained unless `may_wait`.
        """
        if type(event) is not PaymentRequestCompleted:
            return event
        missing = _Missing(f"the project did not answer within {self._timeout:g} s")
        with move_on_after(self._timeout):
            found = await self._look(event)
            if isinstance(found, Event):
                return found
            missing = found
        return missing.reason if may_wait and not missing.final else _unexplained(event, missing)

    async def _look(self, event: PaymentRequestCompleted) -> Event | _Missing:
        try:
            number = check_uuid("payment_request_id", event.payment_request_id)
        except UsageError:
            return _Missing("the event names no payment request", final=True)
        if event.project_id is not None and event.project_id.lower() != self._project.project_id:
            return _Missing("the event is of another project", final=True)
        request: PaymentRequest | None = None
        try:
            request = await self._project.payment_request(number)
            return await self._joined(event, request)
        except NotFound:
            why = "the project has no such payment request" if request is None else "the project has no such user"
        except TGMembershipError as error:
            why = f"the project could not be asked: {printable(str(error), _LONGEST_REASON)}"
        except Exception as error:  # an own middleware of the project; the worker must go on
            _logger.exception("a payment could not be looked up")
            why = f"the project could not be asked: {type(error).__name__}"
        return _Missing(why, request)

    async def _joined(self, event: PaymentRequestCompleted, request: PaymentRequest) -> Event | _Missing:
        if request.user_id is None:
            return _Missing("the payment request names no user", request)
        known: dict[str, Any] = {**_fields_of(event, request), "user_id": request.user_id, "payment_request": request}
        if is_top_up(request):
            return BalanceToppedUp(**known)
        found = await self._membership(request.user_id, request.payment_request_id)
        if found is None:
            kind = "" if request.request_type is None else f" (request_type {printable(request.request_type, 40)})"
            return _Missing(f"no membership of the user names this payment request{kind}", request)
        return MembershipPaid(
            **known, membership=found, plan_id=found.plan_id or request.plan_id, plan_name=found.plan_name
        )

    async def _membership(self, user_id: int, payment_request_id: str) -> Membership | None:
        async with aclosing(self._project.memberships(user_id)) as memberships:
            async for one in memberships:
                if (one.payment_request_id or "").lower() == payment_request_id.lower():
                    return one
        return None


def is_top_up(request: PaymentRequest) -> bool:
    """Tell whether a payment request is one into the balance: it has no plan, and its type says so (*assumed*)."""
    letters = "".join(filter(str.isalpha, (request.request_type or "").lower()))
    return request.plan_id is None and any(word in letters for word in _TOP_UP_WORDS)


def _fields_of(event: PaymentRequestCompleted, request: PaymentRequest | None) -> dict[str, Any]:
    known = {one.name: getattr(event, one.name) for one in fields(PaymentRequestCompleted)}
    if event.amount is None and request is not None:
        known["amount"] = request.amount
    return known


def _unexplained(event: PaymentRequestCompleted, missing: _Missing) -> PaymentUnexplained:
    request = missing.payment_request
    return PaymentUnexplained(
        **_fields_of(event, request),
        reason=missing.reason,
        user_id=None if request is None else request.user_id,
        plan_id=None if request is None else request.plan_id,
        payment_request=request,
    )
