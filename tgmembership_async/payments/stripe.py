"""Stripe: from a signed webhook event to a Payment, a Refund or an Attention. No call to Stripe is made.

Where an invoice has the metadata of its subscription depends on the API version of the webhook endpoint (documented by
Stripe). All known places are read: `parent.subscription_details` (basil of 2025-03-31, clover, dahlia, endive),
`subscription_details` (2023-08-16 to acacia), the line items (before), and the invoice's own metadata.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

from attrs import frozen
from stripe import WebhookSignature

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.payments.adapter import signature_in
from tgmembership_async.payments.model import Attention, Ignored, Payment, PaymentEvent, Refund
from tgmembership_async.settings import seconds
from tgmembership_async.values.secret import Secret, hides_arguments
from tgmembership_async.webhooks.headers import HeadersLike

__all__ = ["StripeAdapter"]

JSON = Mapping[str, Any]

_IGNORED: Final = (
    *(
        "account.",
        "balance.",
        "billing_portal.",
        "coupon.",
        "customer.",
        "invoice.",
        "invoice_payment.",
        "invoiceitem.",
    ),
    *("payment_intent.", "payment_link.", "payment_method.", "payout.", "plan.", "price.", "product."),
    *("promotion_code.", "setup_intent.", "tax_rate.", "test_helpers."),
    *("charge.captured", "charge.failed", "charge.pending", "charge.succeeded", "charge.updated"),
    *("checkout.session.async_payment_failed", "checkout.session.expired"),
)
"""The beginnings of types that require nothing: these events precede or accompany those of a payment."""
_PERIODS: Final = ("subscription", "subscription_create", "subscription_cycle")
"""The billing reasons of an invoice for one period of a subscription."""
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_LONGEST_NOTE: Final = 1_000


class StripeAdapter:
    """Reads the webhook events of Stripe: `PaymentReceiver(StripeAdapter("whsec_..."), fulfillment, attention=...)`.

    The metadata of a Checkout Session must contain `plan_id` and `member_id`, the Telegram id of the user; for a
    subscription, `subscription_data.metadata` must too, which its invoices show. The grant's note is the metadata's
    `note`, else the customer's e-mail address. `plan_key`, `member_key` and `note_key` are other names of these keys;
    with `member_key=None` payments are taken without a member.

    - `checkout.session.completed` with the `payment_status` "paid", and `checkout.session.async_payment_succeeded`: a
      Payment. Its ref is `stripe:` and the id of the PaymentIntent, or of the invoice if it is a subscription.
    - `invoice.paid` for a period of a subscription: a Payment with the ref `stripe:INVOICE`. The first invoice of a
      subscription and its Checkout Session have the same ref.
    - `charge.refunded`: a Refund if it is complete. A partial one, `refund.*` and `charge.dispute.*`: an Attention.
    - Nothing was paid (a trial, a full discount), an invoice for no period (an upgrade), a payment without the
      metadata, an event of the test mode if `live`, or of the live mode if not, and unknown events: an Attention.

    `secrets` are the signing secrets of the webhook endpoint, several while they are rotated. The `stripe` package
    verifies the signature, which is at most `tolerance` seconds old. Raises UsageError for a wrong argument.
    """

    @hides_arguments
    def __init__(
        self,
        secrets: str | Secret | Sequence[str | Secret],
        *,
        live: bool = True,
        plan_key: str = "plan_id",
        member_key: str | None = "member_id",
        note_key: str = "note",
        tolerance: float = 300.0,
    ) -> None:
        given: object = [secrets] if isinstance(secrets, str | Secret) else secrets
        several = cast("Sequence[object]", given) if isinstance(given, Sequence) else ()
        self._secrets = tuple(_checked(secret) for secret in several)
        if not self._secrets:
            msg = "a StripeAdapter needs the signing secret of the webhook endpoint, which begins with whsec_"
            raise UsageError(msg)
        self._live = live
        self._plan_key, self._member_key, self._note_key = plan_key, member_key, note_key
        self._tolerance = max(1, int(seconds("tolerance", tolerance)))  # 0 would switch the check off
        self._readers: Mapping[str, Callable[[_Event], PaymentEvent]] = {
            "checkout.session.completed": self._session,
            "checkout.session.async_payment_succeeded": self._session,
            "invoice.paid": self._invoice,
            "charge.refunded": self._refund,
        }

    def __repr__(self) -> str:
        return f"<StripeAdapter with {len(getattr(self, '_secrets', ()))} secret(s)>"

    def read(self, headers: HeadersLike, body: bytes) -> PaymentEvent:
        """Return the meaning of an event. Raises NotAuthentic if Stripe has not signed it, or too long ago."""
        signature = signature_in(headers, "Stripe-Signature")
        if not any(_is_signed(body, signature, secret, self._tolerance) for secret in self._secrets):
            msg = "the signature does not match, or is too old: check the signing secret, the raw body and the clock"
            raise NotAuthentic(msg)
        event = _Event.of(body)
        if event is None:
            return Attention("stripe", "an authentic event that is not readable: look at the events in Stripe")
        try:
            return self._read(event)
        except UsageError as error:
            problem = str(error)
        return event.attention(problem)

    def _read(self, event: "_Event") -> PaymentEvent:
        reader = self._readers.get(event.kind)
        if reader is None and event.kind.startswith(_IGNORED):
            return Ignored(event.id, event.kind)
        if event.is_live is not self._live:
            return event.attention("an event of the live mode" if event.is_live else "an event of the test mode")
        if reader is not None:
            return reader(event)
        if event.kind.startswith(("refund.", "charge.refund.", "charge.dispute.")):
            return event.attention(
                f"amount {event.object.get('amount')}, status {event.object.get('status')}", event.paid
            )
        return event.attention("an unknown event")

    def _session(self, event: "_Event") -> PaymentEvent:
        session, status = event.object, event.object.get("payment_status")
        if session.get("mode") == "setup" or status == "unpaid":  # async_payment_succeeded follows when it is paid
            return Ignored(event.id, f"{event.kind}: payment_status is {status}")
        is_subscription = session.get("mode") == "subscription"
        ref = _ref(session.get("invoice") if is_subscription else session.get("payment_intent") or session.get("id"))
        if status != "paid":
            return event.attention(f"nothing was paid, payment_status is {status}: a trial or a full discount", ref)
        if ref is None:  # before 2022-11-15; granted under another ref it would be granted twice
            return event.attention("a subscription whose session does not name the invoice: invoice.paid is granted")
        email = _object(session, "customer_details").get("email")
        return self._payment(event, ref, [_object(session, "metadata")], email)

    def _invoice(self, event: "_Event") -> PaymentEvent:
        invoice, ref = event.object, _ref(event.object.get("id"))
        reason, metadata = invoice.get("billing_reason"), self._metadata_of(invoice)
        if not (invoice.get("subscription") or _object(invoice, "parent").get("subscription_details")):
            why = "a paid invoice without a subscription is not granted"
            return event.attention(why, ref) if metadata else Ignored(event.id, why)  # else it is of another shop
        if reason not in _PERIODS:
            return event.attention(f"an invoice for no period of a subscription, billing_reason is {reason}", ref)
        if invoice.get("total") == 0:
            return event.attention("an invoice over nothing: a trial or a full discount", ref)
        return self._payment(event, ref, metadata, invoice.get("customer_email"))

    def _metadata_of(self, invoice: JSON) -> list[JSON]:
        """Return the metadata with a plan, from the first place that has some."""
        items = _objects(_object(invoice, "lines"), "data")
        parent = _object(_object(invoice, "parent"), "subscription_details")
        for owners in ([parent], [_object(invoice, "subscription_details")], items, [invoice]):
            found = [_object(owner, "metadata") for owner in owners if self._plan_key in _object(owner, "metadata")]
            if found:
                return found
        return []

    def _payment(self, event: "_Event", ref: str | None, places: Sequence[JSON], email: object) -> PaymentEvent:
        if any(place != places[0] for place in places):
            return event.attention("the line items of the invoice have different metadata", ref)
        metadata: JSON = places[0] if places else {}
        plan_id, member_id = _number(metadata, self._plan_key), _number(metadata, self._member_key)
        if ref is None or plan_id is None or (member_id is None and self._member_key is not None):
            keys = " and ".join(key for key in (self._plan_key, self._member_key) if key)
            return event.attention(f"paid, but its metadata has no valid {keys}: grant it by hand, or refund it", ref)
        note = metadata.get(self._note_key) or email
        text = note[:_LONGEST_NOTE] if isinstance(note, str) else ""
        return Payment(ref, plan_id=plan_id, member_id=member_id, note=text, paid_at=event.created_at)

    def _refund(self, event: "_Event") -> PaymentEvent:
        charge, ref = event.object, event.paid
        if charge.get("refunded") is not True or ref is None:
            return event.attention(f"{charge.get('amount_refunded')} of {charge.get('amount')} were refunded", ref)
        # With an invoice the ref is certain only if it is in the ledger: no row is to be made for it.
        metadata: JSON = {} if charge.get("invoice") else _object(charge, "metadata")
        plan_id, member_id = _number(metadata, self._plan_key), _number(metadata, self._member_key)
        return Refund(ref, "refunded in Stripe", plan_id, member_id)


@frozen
class _Event:
    """An event of Stripe, as far as its envelope is readable."""

    id: str
    kind: str
    is_live: bool
    created_at: datetime
    object: JSON

    @classmethod
    def of(cls, body: bytes) -> Self | None:
        try:
            event = json.loads(body)
            created_at = datetime.fromtimestamp(event["created"], UTC)
            name, kind, live, content = event["id"], event["type"], event["livemode"], event["data"]["object"]
        except (ValueError, TypeError, LookupError, OverflowError, OSError, RecursionError):
            return None
        if not (isinstance(name, str) and isinstance(kind, str) and isinstance(content, dict)):
            return None
        return cls(name, kind, live is True, created_at, cast("JSON", content))

    @property
    def paid(self) -> str | None:
        """Return the ref of the payment that a charge, a refund or a dispute is about.

        A charge names the invoice of a subscription only before basil.
        """
        return _ref(self.object.get("invoice") or self.object.get("payment_intent"))

    def attention(self, why: str, ref: str | None = None) -> Attention:
        return Attention(f"stripe:{self.id}", f"{self.kind}, {self.object.get('id')}: {why}", ref)


def _is_signed(body: bytes, signature: str, secret: Secret, tolerance: int) -> bool:
    try:
        cast("Any", WebhookSignature).verify_header(body.decode(), signature, secret.reveal(), tolerance)
    except Exception:  # noqa: BLE001 - hostile headers raise TypeError and others as well
        return False
    return True


def _checked(secret: object) -> Secret:
    value = secret.reveal() if isinstance(secret, Secret) else secret
    if not isinstance(value, str) or not value or value != value.strip():
        msg = "a signing secret must be a str or a Secret without white space around it"
        raise UsageError(msg)
    return Secret(value)


def _object(parent: JSON, key: str) -> JSON:
    """Return an object inside another one, or an empty one."""
    value = parent.get(key)
    return cast("JSON", value) if isinstance(value, dict) else {}


def _objects(parent: JSON, key: str) -> list[JSON]:
    """Return the objects of a list inside an object."""
    value = parent.get(key)
    several = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("JSON", item) for item in several if isinstance(item, dict)]


def _ref(value: object) -> str | None:
    """Return the ref of an object that is given by its id, or expanded."""
    name = cast("JSON", value).get("id") if isinstance(value, dict) else value
    return f"stripe:{name}" if isinstance(name, str) else None


def _number(metadata: JSON, key: str | None) -> int | None:
    value = None if key is None else metadata.get(key)
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None
