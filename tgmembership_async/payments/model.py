"""The meaning of an event of a payment provider: a payment, a refund, a question to the owner, or nothing."""

from attrs import frozen

from tgmembership_async.grants.model import GrantRequest, check_ref
from tgmembership_async.protocol.envelope import printable

_LONGEST_TEXT = 500


@frozen
class Payment(GrantRequest):
    """A payment that has been made: `ref`, `plan_id`, `member_id`, `note`, and `paid_at` (aware).

    All events about one payment have the same ref. Raises UsageError for invalid values, as GrantRequest does.
    """


@frozen
class Refund:
    """A payment that was refunded completely. `plan_id` and `member_id` are those of the payment, as far as known.

    Raises UsageError for an invalid ref.
    """

    ref: str
    reason: str = "refunded"
    plan_id: int | str | None = None
    member_id: int | None = None
    note: str = ""

    def __attrs_post_init__(self) -> None:
        check_ref(self.ref)


@frozen
class Attention:
    """An event that a person must judge. `event` is its id at the provider, `ref` the payment's, if it is known."""

    event: str
    text: str
    ref: str | None = None

    def __str__(self) -> str:
        return printable(f"{self.event}: {self.text}", _LONGEST_TEXT)


@frozen
class Ignored:
    """An event that requires nothing. `event` is its id at the provider."""

    event: str
    text: str = ""


PaymentEvent = Payment | Refund | Attention | Ignored
"""The meaning of one event of a provider."""
