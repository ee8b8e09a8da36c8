"""The methods of API v2 as a table: path, safety, result reader and parameters.

All of it is *documented*, and was never run by us against the live service. A name in braces is a parameter that goes
into the path. Calls that set an absolute state are idempotent; what creates something is unsafe.
"""

from typing import Any, Final

from tgmembership_async.project import results
from tgmembership_async.project.ids import (
    check_amount,
    check_search,
    check_text,
    check_until,
    check_user_id,
)
from tgmembership_async.project.models import (
    Balance,
    BalanceChange,
    Coupon,
    Membership,
    PaymentRequest,
    ProjectPlan,
    ProjectUser,
)
from tgmembership_async.protocol.endpoints import Endpoint, check_local_url, check_url, check_uuid
from tgmembership_async.protocol.wire import Safety


def _nothing(_: object) -> None:
    return None


def _raw(result: object) -> object:
    return result


def _money(name: str, value: object) -> str:
    return f"{check_amount(name, value):.2f}"


_USER_ID: Final = {"user_id": check_user_id}
_A_USER: Final = frozenset(_USER_ID)

PLANS: Final[Endpoint[list[ProjectPlan]]] = Endpoint("plans", "GET", Safety.SAFE, results.plans)
USERS: Final[Endpoint[list[ProjectUser]]] = Endpoint("users", "GET", Safety.SAFE, results.users)
USER: Final[Endpoint[ProjectUser]] = Endpoint("users/{user_id}", "GET", Safety.SAFE, results.user, _USER_ID, _A_USER)
SEARCH_USERS: Final[Endpoint[list[ProjectUser]]] = Endpoint(
    "users/search", "GET", Safety.SAFE, results.users, {"search": check_search}, frozenset({"search"})
)
MEMBERSHIPS: Final[Endpoint[list[Membership]]] = Endpoint(
    "memberships", "GET", Safety.SAFE, results.memberships, _USER_ID
)
EXTEND_MEMBER: Final[Endpoint[None]] = Endpoint(
    "memberships/{user_id}/extend",
    "PATCH",
    Safety.IDEMPOTENT,
    _nothing,
    {**_USER_ID, "extend": check_until},
    frozenset({"user_id", "extend"}),
)
EXTEND_EVERYBODY: Final[Endpoint[None]] = Endpoint(
    "memberships/extend", "PATCH", Safety.IDEMPOTENT, _nothing, {"extend": check_until}, frozenset({"extend"})
)
REMOVE_MEMBERSHIP: Final[Endpoint[None]] = Endpoint(
    "memberships/{membership_id}",
    "DELETE",
    Safety.IDEMPOTENT,
    _nothing,
    {"membership_id": check_uuid},
    frozenset({"membership_id"}),
)
BANNED: Final[Endpoint[list[ProjectUser]]] = Endpoint("ban", "GET", Safety.SAFE, results.users)
BAN: Final[Endpoint[None]] = Endpoint("ban/{user_id}", "PUT", Safety.IDEMPOTENT, _nothing, _USER_ID, _A_USER)
UNBAN: Final[Endpoint[None]] = Endpoint("ban/{user_id}", "DELETE", Safety.IDEMPOTENT, _nothing, _USER_ID, _A_USER)
BALANCE: Final[Endpoint[Balance]] = Endpoint("balance", "GET", Safety.SAFE, results.balance, _USER_ID, _A_USER)
ADJUST_BALANCE: Final[Endpoint[BalanceChange]] = Endpoint(
    "balance/adjust",
    "POST",
    Safety.IDEMPOTENT,
    results.balance_change,
    {**_USER_ID, "new_balance": _money, "reason": check_text},
    frozenset({"user_id", "new_balance"}),
)
PAYMENT_REQUESTS: Final[Endpoint[list[PaymentRequest]]] = Endpoint(
    "payment-requests", "GET", Safety.SAFE, results.payment_requests
)
PAYMENT_REQUEST: Final[Endpoint[PaymentRequest]] = Endpoint(
    "payment-requests/{payment_request_id}",
    "GET",
    Safety.SAFE,
    results.payment_request,
    {"payment_request_id": check_uuid},
    frozenset({"payment_request_id"}),
)
CREATE_PAYMENT_REQUEST: Final[Endpoint[PaymentRequest]] = Endpoint(
    "payment-requests",
    "POST",
    Safety.UNSAFE,
    results.payment_request,
    {**_USER_ID, "plan_id": check_uuid},
    frozenset({"user_id", "plan_id"}),
)
VALIDATE_COUPON: Final[Endpoint[Coupon]] = Endpoint(
    "coupons/validate",
    "POST",
    Safety.SAFE,
    results.coupon,
    {"code": check_text, **_USER_ID, "plan_id": check_uuid},
    frozenset({"code"}),
)
SET_WEBHOOK: Final[Endpoint[Any]] = Endpoint(
    "integrations/webhooks", "POST", Safety.UNSAFE, _raw, {"url": check_url}, frozenset({"url"}), secret=True
)
SET_WEBHOOK_LOCALLY: Final[Endpoint[Any]] = Endpoint(
    "integrations/webhooks", "POST", Safety.UNSAFE, _raw, {"url": check_local_url}, frozenset({"url"}), secret=True
)

ENDPOINTS: Final[tuple[Endpoint[Any], ...]] = (
    *(PLANS, USERS, USER, SEARCH_USERS, MEMBERSHIPS, EXTEND_MEMBER, EXTEND_EVERYBODY, REMOVE_MEMBERSHIP),
    *(BANNED, BAN, UNBAN, BALANCE, ADJUST_BALANCE, PAYMENT_REQUESTS, PAYMENT_REQUEST, CREATE_PAYMENT_REQUEST),
    *(VALIDATE_COUPON, SET_WEBHOOK),
)
