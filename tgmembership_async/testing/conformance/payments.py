"""Checks that every adapter to a payment provider must pass.

Each check is `(sample) -> None`, and raises AssertionError if the adapter fails it. With pytest and your own adapter:

    SAMPLE = AdapterSample(MyAdapter(SECRET), sign=sign_as_the_provider, payment=BODY, secret=SECRET)

    @pytest.mark.parametrize("check", PAYMENT_CHECKS, ids=lambda check: check.__name__)
    def test_my_adapter(check):
        check(SAMPLE)
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, cast, get_args

from attrs import field, frozen

from tgmembership_async.errors import NotAuthentic
from tgmembership_async.payments.adapter import PaymentAdapter
from tgmembership_async.payments.model import Payment, PaymentEvent, Refund
from tgmembership_async.testing.conformance.samples import check, check_equal

_STRANGE: Final = (
    *(b"", b"\0", b"\xff\xfe", b"null", b"[]", b"{}", b'"text"', b"1e999", b"[" * 10_000, b'{"id":' * 5_000),
    b"9" * 5_000,
    b'{"id": "\\ud800", "type": 1, "data": {"object": []}}',
)

_STRANGE_VALUES: Final[tuple[object, ...]] = (None, [], {}, -1, "\ud800", "x" * 2_000)


@frozen(kw_only=True)
class AdapterSample:
    """An adapter to check, and requests of its provider.

    `sign` returns the headers with which the provider sends a body now. `payment` is the body of an event about a
    payment, `refund` of one about its complete refund, if the provider has such events. `secret` is the text that
    nothing may show.
    """

    adapter: PaymentAdapter
    sign: Callable[[bytes], Mapping[str, str]]
    payment: bytes
    refund: bytes | None = None
    secret: str = field(default="", repr=False)

    def read(self, body: bytes) -> PaymentEvent:
        """Return the meaning of a body that the provider sends."""
        return self.adapter.read(self.sign(body), body)


Check = Callable[[AdapterSample], None]


def a_payment_is_complete(sample: AdapterSample) -> None:
    """Check that a payment has a time, and a ref that begins with the provider's name and a colon."""
    payment = sample.read(sample.payment)
    check(isinstance(payment, Payment), f"expected a Payment, found {payment!r}")
    if isinstance(payment, Payment):
        check(payment.paid_at is not None, "paid_at is missing: a restored ledger needs it")
        name, colon, rest = payment.ref.partition(":")
        check(name and colon and rest, f"the ref {payment.ref!r} must be the provider's name, a colon and an id")


def the_same_event_means_the_same(sample: AdapterSample) -> None:
    """Check that a repeated event, signed anew, has the same meaning, and so the same ref."""
    check_equal(sample.read(sample.payment), sample.read(sample.payment))


def a_refund_names_its_payment(sample: AdapterSample) -> None:
    """Check that a complete refund has the ref of its payment."""
    if sample.refund is not None:
        payment, refund = sample.read(sample.payment), sample.read(sample.refund)
        check(isinstance(refund, Refund), f"expected a Refund, found {refund!r}")
        check_equal(getattr(refund, "ref", None), getattr(payment, "ref", None))


def headers_are_found_in_any_form(sample: AdapterSample) -> None:
    """Accept headers as a mapping or as pairs, of str or bytes, with names in any case, among others."""
    headers = sample.sign(sample.payment)
    expected = sample.adapter.read(headers, sample.payment)
    pairs = [("Host", "shop"), *headers.items()]
    forms = (
        {name.lower(): value for name, value in headers.items()},
        [(name.upper(), value) for name, value in pairs],
        [(name.lower().encode(), value.encode()) for name, value in pairs],
    )
    for form in forms:
        check_equal(sample.adapter.read(form, sample.payment), expected)


def a_forgery_is_refused(sample: AdapterSample) -> None:
    """Raise NotAuthentic without the signature, with that of another body, and with a damaged one."""
    headers = dict(sample.sign(sample.payment))
    _check_refused(sample, {}, sample.payment)
    _check_refused(sample, headers, sample.payment + b" ")
    _check_refused(sample, headers, b"")
    for name, value in headers.items():
        for damaged in ("", value[:-1], f"{value}\xff", "\xe9" * 64, "=" * 10_000):
            _check_refused(sample, {**headers, name: damaged}, sample.payment)


def an_authentic_event_is_never_an_error(sample: AdapterSample) -> None:
    """Return a meaning for every authentic event, whatever it contains."""
    for body in (*_STRANGE, *_damaged(sample.payment)):
        try:
            found = sample.read(body)
        except NotAuthentic:
            continue
        check(isinstance(found, get_args(PaymentEvent)), f"expected a PaymentEvent for {body[:80]!r}, found {found!r}")


def nothing_shows_the_secret(sample: AdapterSample) -> None:
    """Show the secret in no repr and in no message."""
    check(not sample.secret or sample.secret not in repr(sample.adapter), "the repr shows the secret")
    try:
        sample.adapter.read({}, sample.payment)
    except NotAuthentic as error:
        shown = f"{error!r} {error.__cause__!r} {error.__context__!r}"
        check(not sample.secret or sample.secret not in shown, "the error shows the secret")


PAYMENT_CHECKS: Final[tuple[Check, ...]] = (
    a_payment_is_complete,
    the_same_event_means_the_same,
    a_refund_names_its_payment,
    headers_are_found_in_any_form,
    a_forgery_is_refused,
    an_authentic_event_is_never_an_error,
    nothing_shows_the_secret,
)


def _check_refused(sample: AdapterSample, headers: Mapping[str, str], body: bytes) -> None:
    try:
        found = sample.adapter.read(headers, body)
    except NotAuthentic:
        return
    msg = f"expected NotAuthentic for {dict(headers)!r:.200}, found {found!r}"
    raise AssertionError(msg)


def _damaged(body: bytes) -> list[bytes]:
    """Return variants of a JSON object in which one field, at any depth, has a strange value."""
    try:
        event = json.loads(body)
    except ValueError:
        return []
    variants: list[bytes] = []

    def visit(value: object, rebuild: Callable[[object], object]) -> None:
        variants.extend(json.dumps(rebuild(strange)).encode() for strange in _STRANGE_VALUES)
        if isinstance(value, dict):
            content = cast("dict[str, object]", value)
            for key, inner in content.items():
                visit(inner, partial(_with, content, key, rebuild))

    visit(event, lambda new: new)
    return variants


def _with(content: Mapping[str, object], key: str, rebuild: Callable[[object], object], new: object) -> object:
    return rebuild({**content, key: new})
