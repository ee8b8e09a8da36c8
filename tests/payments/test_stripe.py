"""`StripeAdapter`: what Stripe's events mean, in every shape, and what a forger achieves."""

import json
import time
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe_events import ACACIA, BASIL, CREATED, METADATA, OLDER, SECRET, charge, event, invoice, session, signed

from tgmembership_async import NotAuthentic, UsageError
from tgmembership_async.payments import Attention, Ignored, Payment, PaymentEvent, Refund
from tgmembership_async.payments.stripe import StripeAdapter
from tgmembership_async.testing import PAYMENT_CHECKS, AdapterSample
from tgmembership_async.values.secret import Secret

WHEN = datetime.fromtimestamp(CREATED, UTC)
PAID = event("checkout.session.completed", session())


def read(body: bytes, **options: Any) -> PaymentEvent:
    return StripeAdapter(SECRET, **options).read(signed(body), body)


def asked(body: bytes, **options: Any) -> str:
    found = read(body, **options)
    assert isinstance(found, Attention), found
    return f"{found} [{found.ref}]"


@pytest.mark.parametrize("check", PAYMENT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("payment", "refund"),
    [
        (PAID, event("charge.refunded", charge())),
        (event("invoice.paid", invoice(**BASIL)), None),
        (event("invoice.paid", invoice(**ACACIA)), event("charge.refunded", charge(invoice="in_1"))),
    ],
    ids=["session", "basil", "acacia"],
)
def test_it_passes_the_checks_for_adapters(check: Any, payment: bytes, refund: bytes | None) -> None:
    check(AdapterSample(adapter=StripeAdapter(SECRET), sign=signed, payment=payment, refund=refund, secret=SECRET))


@pytest.mark.parametrize("kind", ["checkout.session.completed", "checkout.session.async_payment_succeeded"])
def test_a_paid_session_is_a_payment(kind: str) -> None:
    expected = Payment("stripe:pi_1", plan_id=1, member_id=42, note="ann@example.org", paid_at=WHEN)
    assert read(event(kind, session())) == expected
    assert read(event(kind, session(payment_intent={"id": "pi_1", "object": "payment_intent"}))) == expected


def test_the_metadata_may_have_a_note_and_other_keys() -> None:
    noted = read(event("checkout.session.completed", session(metadata={**METADATA, "note": "777 en"})))
    assert isinstance(noted, Payment)
    assert noted.note == "777 en"
    other = event("checkout.session.completed", session(metadata={"tgm_plan": "7"}))
    found = read(other, plan_key="tgm_plan", member_key=None)
    assert isinstance(found, Payment)
    assert (found.plan_id, found.member_id) == (7, None)


@pytest.mark.parametrize("shape", [BASIL, ACACIA, OLDER], ids=["basil", "acacia", "older"])
def test_an_invoice_of_a_subscription_is_a_payment_in_the_shape_of_every_api_version(shape: dict[str, Any]) -> None:
    found = read(event("invoice.paid", invoice(**shape)))
    assert found == Payment("stripe:in_1", plan_id=1, member_id=42, note="ann@example.org", paid_at=WHEN)


def test_the_first_invoice_and_its_session_are_one_payment() -> None:
    first = read(event("invoice.paid", invoice(billing_reason="subscription_create", **BASIL)))
    subscribed = session(mode="subscription", invoice="in_1", subscription="sub_1", payment_intent=None)
    assert read(event("checkout.session.completed", subscribed)) == first


def test_the_session_of_a_subscription_without_its_invoice_is_told() -> None:
    subscribed = session(mode="subscription", subscription="sub_1", payment_intent=None)
    assert "does not name the invoice" in asked(event("checkout.session.completed", subscribed))


def test_only_what_is_paid_is_a_payment() -> None:
    assert isinstance(read(event("checkout.session.completed", session(payment_status="unpaid"))), Ignored)
    assert isinstance(read(event("checkout.session.completed", session(mode="setup"))), Ignored)
    free = session(payment_status="no_payment_required", payment_intent=None)
    assert "nothing was paid" in asked(event("checkout.session.completed", free))
    assert "over nothing" in asked(event("invoice.paid", invoice(total=0, **BASIL)))
    changed = asked(event("invoice.paid", invoice(billing_reason="subscription_update", **BASIL)))
    assert "for no period" in changed
    assert "[stripe:in_1]" in changed


def test_an_invoice_without_a_subscription_is_told_only_with_our_metadata() -> None:
    assert isinstance(read(event("invoice.paid", invoice(billing_reason="manual"))), Ignored)
    ours = invoice(billing_reason="manual", metadata=METADATA)
    assert "without a subscription" in asked(event("invoice.paid", ours))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        None,
        {"plan_id": "1"},
        {"member_id": "42"},
        *({**METADATA, "plan_id": x} for x in ("0", "-1", "one", 1, "1" * 30)),
    ],
)
def test_a_payment_with_incomplete_metadata_is_told(metadata: Any) -> None:
    told = asked(event("checkout.session.completed", session(metadata=metadata)))
    assert "stripe:evt_1: checkout.session.completed, cs_1: paid, but its metadata has no valid plan_id" in told
    assert "[stripe:pi_1]" in told


def test_line_items_that_differ_are_told() -> None:
    lines = {"data": [{"metadata": METADATA}, {"metadata": {**METADATA, "plan_id": "2"}}]}
    assert "different metadata" in asked(event("invoice.paid", invoice(subscription="sub_1", lines=lines)))


def test_a_complete_refund_has_the_ref_of_the_payment_and_others_are_told() -> None:
    assert read(event("charge.refunded", charge())) == Refund("stripe:pi_1", "refunded in Stripe")
    known = read(event("charge.refunded", charge(metadata=METADATA)))
    assert known == Refund("stripe:pi_1", "refunded in Stripe", 1, 42)
    invoiced = read(event("charge.refunded", charge(invoice="in_1", metadata=METADATA)))
    assert invoiced == Refund("stripe:in_1", "refunded in Stripe"), "it may be that of a Checkout Session"
    part = asked(event("charge.refunded", charge(refunded=False, amount_refunded=100)))
    assert "100 of 999 were refunded" in part
    assert "[stripe:pi_1]" in part
    for kind in ("refund.failed", "refund.created", "charge.refund.updated", "charge.dispute.created"):
        told = asked(event(kind, {"id": "du_1", "amount": 999, "status": "failed", "payment_intent": "pi_1"}))
        assert "amount 999, status failed [stripe:pi_1]" in told


def test_what_needs_nothing_is_ignored_and_what_is_unknown_is_told() -> None:
    for kind in ("payment_intent.succeeded", "invoice.finalized", "customer.created", "checkout.session.expired"):
        assert isinstance(read(event(kind, {"id": "x"}, livemode=False)), Ignored)
    assert "an unknown event" in asked(event("radar.early_fraud_warning.created", {"id": "issfr_1"}))
    assert "not readable" in asked(b'{"object": "v2.core.event"}')


def test_events_of_the_other_mode_are_told_and_not_granted() -> None:
    test = event("checkout.session.completed", session(), livemode=False)
    assert "an event of the test mode" in asked(test)
    assert isinstance(read(test, live=False), Payment)
    assert "an event of the live mode" in asked(PAID, live=False)


def test_values_that_no_ledger_stores_are_told() -> None:
    assert "ref must be" in asked(event("checkout.session.completed", session(payment_intent="pi\n1")))
    bad = session(metadata={**METADATA, "note": "\ud800"})
    assert "surrogate" in asked(event("checkout.session.completed", bad))
    forged = event("charge.dispute.created", {"id": "a\nCRITICAL", "amount": {"x": "\x1b[2J"}})
    assert "\n" not in asked(forged)
    assert "\x1b" not in asked(forged)


def test_signatures_are_checked() -> None:
    adapter = StripeAdapter([Secret("whsec_new"), SECRET])
    assert isinstance(adapter.read(signed(PAID), PAID), Payment)
    assert isinstance(adapter.read(signed(PAID, "whsec_new"), PAID), Payment)
    old = signed(PAID, at=time.time() - 400)
    twice = [*signed(PAID).items()] * 2
    for headers in ({}, old, twice, signed(PAID, "whsec_another"), {"stripe-signature": "t=1,v0=00"}):
        with pytest.raises(NotAuthentic):
            adapter.read(headers, PAID)
    assert isinstance(StripeAdapter(SECRET, tolerance=500).read(old, PAID), Payment)


def test_wrong_arguments_are_told() -> None:
    for secrets in ("", [], " whsec_1", None, 1, [""]):
        with pytest.raises(UsageError, match="signing secret"):
            StripeAdapter(secrets)  # type: ignore[arg-type]  # callers are not all typed
    with pytest.raises(UsageError, match="tolerance"):
        StripeAdapter(SECRET, tolerance=0)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["paid", "1", "42", "pi_1", "subscription", "\ud800", ""])
)
KEYS = st.sampled_from([*session(), *invoice(**BASIL), *charge(), *METADATA, "data"])
CONTENT = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=20,
)
KINDS = st.sampled_from(
    ["checkout.session.completed", "invoice.paid", "charge.refunded", "charge.dispute.created", "x"]
)


@given(KINDS, st.dictionaries(st.sampled_from([*session(), *invoice(**BASIL), *charge()]), CONTENT))
def test_every_authentic_event_has_a_meaning(kind: str, content: dict[str, Any]) -> None:
    """Whatever Stripe sends, it is a value of the sum, which can be shown, and a payment is one that a ledger takes."""
    base = {"checkout.session.completed": session(), "invoice.paid": invoice(**BASIL)}.get(kind, charge())
    found = read(event(kind, {**base, **content}))
    assert isinstance(found, get_args(PaymentEvent))
    assert str(found).isprintable()
    if isinstance(found, Payment):
        assert json.dumps([found.plan_id, found.member_id]) == json.dumps([1, 42])
