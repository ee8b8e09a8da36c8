"""The client of a project of API v2 (*documented*, never run by us against the live service)."""

from tgmembership_async.project.client import Project
from tgmembership_async.project.errors import BalanceConflict
from tgmembership_async.project.models import (
    Balance,
    BalanceChange,
    Coupon,
    Membership,
    PaymentRequest,
    ProjectPlan,
    ProjectUser,
)

__all__ = [
    "Balance",
    "BalanceChange",
    "BalanceConflict",
    "Coupon",
    "Membership",
    "PaymentRequest",
    "Project",
    "ProjectPlan",
    "ProjectUser",
]
