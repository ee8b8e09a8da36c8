"""The Verifier: what is authentic, what is not, and that nothing but NotAuthentic comes of what others send."""

import contextlib
import hashlib
import hmac
import logging
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from canary import CANARY_SECRET
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks.headers import MOST_TRIED
from tgmembership_async.webhooks.signature import Verifier, sign

NOW = 1_700_000_000
BODY = b'{"event": "order_completed", "debug_id": "d1", "data": {"user_id": "42"}}'
NONCE = "65f0c0ffee123"


def verifier(secrets: Any = CANARY_SECRET, *, now: float = NOW, **options: Any) -> Verifier:
    return Verifier(secrets, clock=lambda: now, **options)


def signed(
    body: bytes = BODY, *, secret: str = CANARY_SECRET, nonce: str | None = NONCE, at: int = NOW
) -> dict[str, str]:
    return sign(secret, body, nonce=nonce, timestamp=at)


def parts() -> tuple[str, str]:
    """Return a right signature and its nonce, without their headers."""
    signature, nonce = signed().values()
    return signature, nonce


def refused(headers: Any, body: bytes = BODY, **options: Any) -> str:
    with pytest.raises(NotAuthentic) as caught:
        verifier(**options).verify(headers, body)
    return str(caught.value)


def test_the_mac_is_the_documented_one() -> None:
    message = f"{NONCE}.{NOW}.".encode() + BODY
    mac = hmac.new(CANARY_SECRET.encode(), message, hashlib.sha512).hexdigest().upper()
    assert signed() == {"X-Webhook-Signature": f"t={NOW},v1={mac}", "X-Webhook-Nonce": NONCE}


def test_the_mac_of_the_later_generation_is_the_documented_one() -> None:
    mac = hmac.new(CANARY_SECRET.encode(), f"{NOW}.".encode() + BODY, hashlib.sha256).hexdigest()
    assert signed(nonce=None) == {"X-Webhook-Signature": f"v1={mac},t={NOW}"}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 300])
def test_the_mac_is_hmac_for_keys_of_every_length(length: int) -> None:
    key = "k" * length
    for nonce, algorithm in ((NONCE, "sha512"), (None, "sha256")):
        message = f"{nonce}.{NOW}.".encode() if nonce else f"{NOW}.".encode()
        mac = hmac.digest(key.encode(), message + BODY, algorithm).hex()
        assert mac in signed(secret=key, nonce=nonce)["X-Webhook-Signature"].lower()


def test_an_authentic_delivery_says_when_it_was_signed_and_is_named_by_its_mac() -> None:
    delivery = verifier().verify(signed(), BODY)
    assert (delivery.signed_at, delivery.nonce, delivery.body) == (datetime.fromtimestamp(NOW, UTC), NONCE, BODY)
    assert delivery.digest == signed()["X-Webhook-Signature"].partition("v1=")[2].lower()
    assert pickle.loads(pickle.dumps(delivery)) == delivery
    assert delivery.digest not in repr(delivery)


def test_both_generations_verify_through_one_verifier() -> None:
    both = verifier()
    for nonce in (NONCE, None, NONCE, None):
        assert both.verify(signed(nonce=nonce), BODY).nonce == (nonce or "")


@pytest.mark.parametrize(
    "respell",
    [str.lower, str.upper, lambda mac: f"{mac[:64].lower()}{mac[64:].upper()}"],
    ids=["lower", "upper", "mixed"],
)
@pytest.mark.parametrize(
    "order", ["t={t},v1={v1}", "v1={v1},t={t}", " v1={v1} , t={t} ", "v0=0,t={t},x,v1={v1},v2=", "{0}"]
)
def test_case_order_and_company_of_the_keys_do_not_matter(respell: Any, order: str) -> None:
    mac = parts()[0].partition("v1=")[2]
    value = order.replace("{0}", "t={t},v1={v1}").format(t=NOW, v1=respell(mac))
    assert verifier().verify({"S": value, "nonce": NONCE}, BODY)


@pytest.mark.parametrize(
    "as_headers", [dict, lambda h: list(h.items()), lambda h: tuple(h.items()), lambda h: iter(h.items())]
)
def test_headers_come_as_mapping_or_pairs(as_headers: Any) -> None:
    assert verifier().verify(as_headers(signed()), BODY)


def test_headers_come_as_bytes_as_in_asgi() -> None:
    pairs = [(name.encode(), value.encode()) for name, value in signed().items()]
    both = verifier()
    assert both.verify(pairs, BODY) == both.verify(pairs, BODY)


@pytest.mark.parametrize("body", [bytearray(BODY), memoryview(BODY)])
def test_any_bytes_will_do_as_body(body: Any) -> None:
    assert verifier().verify(signed(), body).body == BODY


@pytest.mark.parametrize("body", [BODY.decode(), None, {"event": "x"}])
def test_a_parsed_body_is_a_mistake_of_the_caller(body: Any) -> None:
    with pytest.raises(UsageError, match="raw body as bytes"):
        verifier().verify(signed(), body)


@pytest.mark.parametrize("headers", [None, 7, ["x"], [("a", "b", "c")]])
def test_headers_that_are_no_pairs_are_a_mistake_of_the_caller(headers: Any) -> None:
    with pytest.raises(UsageError, match="pairs"):
        verifier().verify(headers, BODY)


def test_what_is_neither_str_nor_bytes_among_the_headers_is_passed_over() -> None:
    odd: list[Any] = [(None, None), ("x", 7), (b"y", "text"), *signed().items()]
    assert verifier().verify(odd, BODY)


class TestForgeries:
    @pytest.mark.parametrize("body", [BODY + b" ", b"", BODY[:-1]])
    def test_another_body(self, body: bytes) -> None:
        assert "does not match" in refused(signed(), body)

    def test_another_secret(self) -> None:
        assert "check the webhook secret" in refused(signed(secret="another"))

    def test_another_nonce_and_another_time(self) -> None:
        signature, _ = parts()
        assert "does not match" in refused({"S": signature, "Nonce": "65f0c0ffee124"})
        assert "does not match" in refused({"S": signature.replace(str(NOW), str(NOW + 1)), "Nonce": NONCE})

    def test_one_digit_of_the_mac(self) -> None:
        signature, nonce = parts()
        last = "0" if signature[-1] != "0" else "1"
        assert "does not match" in refused({"S": signature[:-1] + last, "Nonce": nonce})

    def test_a_dot_in_the_nonce_would_let_the_boundary_move(self) -> None:
        body = b"1700000000.x"
        mac = hmac.new(CANARY_SECRET.encode(), f"a.b.{NOW}.".encode() + body, hashlib.sha512).hexdigest()
        forged = {"S": f"t={NOW},v1={mac}", "Nonce": "a.b"}
        assert "no usable nonce" in refused(forged, body)
        learned = verifier()
        learned.verify({"S": parts()[0], "Nonce": NONCE}, BODY)
        with pytest.raises(NotAuthentic, match="no usable nonce"):
            learned.verify(forged, body)

    def test_a_mac_of_one_generation_is_none_of_the_other(self) -> None:
        old = hmac.new(CANARY_SECRET.encode(), f"{NONCE}.{NOW}.".encode() + BODY, hashlib.sha256).hexdigest()
        assert "does not match" in refused({"S": f"t={NOW},v1={old}", "Nonce": NONCE})


class TestMalformed:
    @pytest.mark.parametrize(
        "value",
        [
            "",
            "t=1,v1=00",
            f"t={NOW}",
            f"v1={'0' * 128}",
            f"t={NOW},v1={'0' * 127}",
            f"t={NOW},v1={'0' * 96}",
            f"t={NOW},v1={'g' * 128}",
            f"t=,v1={'0' * 128}",
            f"t=-1,v1={'0' * 128}",
            f"t=1e9,v1={'0' * 128}",
            f"t=\uff11\uff17,v1={'0' * 128}",
            f"t={'9' * 12},v1={'0' * 128}",
            f"t={NOW},t={NOW},v1={'0' * 128}",
            f"t={NOW},v1={'0' * 128},v1={'0' * 128}",
            f"t={NOW};v1={'0' * 128}",
            f"t={NOW},v1=" + "\u0660" * 128,
            f"t={NOW},v1={'0' * 128},pad={'x' * 512}",
            "t" * 100_000,
            "v1=" * 100_000,
        ],
    )
    def test_a_value_that_is_no_signature_is_no_signature(self, value: str) -> None:
        assert refused({"S": value, "Nonce": NONCE}) == "no signature in any header"
        assert refused({"S": value, "Nonce": NONCE}, signature_header="S") == "no signature in s"

    @pytest.mark.parametrize("nonce", ["", "a b", "a.b", "ä", "x" * 129, "\x00", "a\x7f"])
    def test_a_nonce_that_is_none(self, nonce: str) -> None:
        assert "no usable nonce" in refused({"S": parts()[0], "Nonce": nonce})
        assert "no usable nonce in n" in refused({"S": parts()[0], "N": nonce}, nonce_header="N")

    def test_no_headers_at_all(self) -> None:
        assert "no signature" in refused({})
        assert "no usable nonce" in refused({"S": parts()[0]})

    def test_a_signature_twice_is_refused_even_if_both_are_right(self) -> None:
        signature, nonce = parts()
        twice = [("S", signature), ("S", signature), ("Nonce", nonce)]
        assert "more than one" in refused(twice)
        assert "more than one" in refused(twice, signature_header="s")
        assert "twice" in refused([("S", signature), ("s", "other"), ("Nonce", nonce)])

    def test_a_nonce_twice_is_refused_even_if_both_are_right(self) -> None:
        signature, nonce = parts()
        assert "twice" in refused([("S", signature), ("Nonce", nonce), ("nonce", nonce)])
        assert "twice" in refused([("S", signature), ("Nonce", nonce), ("nonce", "other")], nonce_header="Nonce")

    def test_two_headers_that_look_like_a_signature_need_a_pin(self) -> None:
        signature, nonce = parts()
        two = {"S": signature, "Other": f"t={NOW},v1={'0' * 64}", "Nonce": nonce}
        assert "pin" in refused(two)
        assert verifier(signature_header="S").verify(two, BODY)

    def test_what_was_learned_is_no_way_around_the_rules(self) -> None:
        signature, nonce = parts()
        learned = verifier()
        learned.verify({"S": signature, "Nonce": nonce}, BODY)
        for pairs in (
            [("S", signature), ("S", signature), ("Nonce", nonce)],
            [("S", signature), ("S", signature)],
            [("S", signature), ("Nonce", nonce), ("Nonce", "x")],
            [("S", signature)],
            [("Nonce", nonce)],
        ):
            with pytest.raises(NotAuthentic):
                learned.verify(pairs, BODY)


class TestFreshness:
    @pytest.mark.parametrize("skew", [-300, 0, 300])
    def test_within_the_tolerance_both_ways(self, skew: int) -> None:
        assert verifier(now=NOW + skew).verify(signed(), BODY)

    def test_too_old_and_too_new_say_so(self) -> None:
        assert "301 s ago, and at most 300 s" in refused(signed(), now=NOW + 301)
        assert "301 s ahead of this machine's clock" in refused(signed(), now=NOW - 301)

    def test_the_tolerance_is_the_users(self) -> None:
        assert verifier(now=NOW + 86_400, tolerance=86_400).verify(signed(), BODY)
        assert verifier(now=0, tolerance=1e18).verify(signed(at=99_999_999_999), BODY)

    def test_a_forgery_is_not_told_that_it_is_stale(self) -> None:
        assert "does not match" in refused(signed(secret="another"), now=NOW + 301)

    def test_a_broken_clock_lets_nobody_in(self) -> None:
        refused(signed(), now=float("nan"))


class TestRotation:
    def test_either_secret_is_good(self) -> None:
        both = verifier(["new", Secret(CANARY_SECRET)])
        assert both.verify(signed(), BODY)
        assert both.verify(signed(secret="new"), BODY)

    def test_a_secret_that_is_gone_is_no_good(self) -> None:
        refused(signed(), secrets=["new"])


class TestFinding:
    def test_the_nonce_is_found_by_its_name(self) -> None:
        signature, nonce = parts()
        assert verifier().verify({"S": signature, "X-Tgm-Nonce-1": nonce, "X-Other": "0123456789abc"}, BODY)

    def test_the_right_one_of_several_with_that_name_is_found(self) -> None:
        signature, nonce = parts()
        assert verifier().verify({"S": signature, "A-Nonce": "0", "B-Nonce": nonce}, BODY)

    def test_a_nonce_of_another_name_is_found_by_trial(self) -> None:
        signature, nonce = parts()
        common = {"Host": "example.org", "Content-Type": "application/json", "Accept": "*/*", "Connection": "close"}
        others = {"X-A": "on", "X-B": "off", "X-C": "yes", "X-D": "no", "X-E": "a b c"}
        found = verifier()
        assert found.verify({**common, **others, "S": signature, "X-R": nonce}, BODY).nonce == nonce
        assert found.found is not None
        assert (found.found.signature, found.found.nonce) == ("s", "x-r")

    def test_at_most_four_are_tried(self) -> None:
        signature, nonce = parts()
        decoys = {f"X-{i}": f"{i:013x}" for i in range(MOST_TRIED)}
        assert "does not match" in refused({"S": signature, **decoys, "Z": nonce})

    def test_what_was_found_is_reported_once_to_be_pinned(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tgmembership_async.webhooks")
        signature, nonce = parts()
        found = verifier()
        for _ in range(3):
            found.verify({"X-Sig": signature, "X-Nonce": nonce}, BODY)
        found.verify({"Another": signature, "X-Nonce": nonce}, BODY)
        [record] = caplog.records
        assert "signature_header='x-sig', nonce_header='x-nonce'" in record.getMessage()

    def test_what_is_pinned_is_not_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tgmembership_async.webhooks")
        signature, nonce = parts()
        pinned = verifier(signature_header="X-Sig", nonce_header="X-Nonce")
        assert pinned.found is None
        pinned.verify({"x-sig": signature, "x-nonce": nonce}, BODY)
        verifier(signature_header="x-webhook-signature").verify(signed(nonce=None), BODY)
        assert not caplog.records

    def test_a_pin_is_a_pin(self) -> None:
        signature, nonce = parts()
        assert "no signature in x-sig" in refused({"Other": signature, "Nonce": nonce}, signature_header="X-Sig")
        assert "no usable nonce in x-n" in refused({"S": signature, "Nonce": nonce}, nonce_header="X-N")


class TestConfiguration:
    @pytest.mark.parametrize(
        "secrets", ["", [], "with space", "line\n", None, 7, [None], b"bytes", "\ud800", ["ok", ""]]
    )
    def test_secrets_that_cannot_be_right(self, secrets: Any) -> None:
        with pytest.raises(UsageError, match="secret"):
            Verifier(secrets)

    @pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf"), True, None, "300"])
    def test_tolerances_that_cannot_be_right(self, tolerance: Any) -> None:
        with pytest.raises(UsageError, match="tolerance"):
            Verifier("secret", tolerance=tolerance)

    @pytest.mark.parametrize("name", ["", " ", 7, b"x", "x" * 81])
    def test_header_names_that_cannot_be_right(self, name: Any) -> None:
        with pytest.raises(UsageError, match="signature_header"):
            Verifier("secret", signature_header=name)
        with pytest.raises(UsageError, match="nonce_header"):
            Verifier("secret", nonce_header=name)

    @pytest.mark.parametrize(("nonce", "at"), [("a.b", NOW), ("", NOW), ("ä", NOW), (NONCE, -1), (NONCE, 10**11)])
    def test_sign_does_not_sign_what_no_verifier_takes(self, nonce: str, at: float) -> None:
        with pytest.raises(UsageError, match="sign"):
            sign("secret", BODY, nonce=nonce, timestamp=at)

    def test_the_secret_does_not_show(self) -> None:
        assert repr(verifier([CANARY_SECRET, "b"])) == "<Verifier with 2 secret(s)>"


texts = st.text(max_size=40) | st.sampled_from(["t=", "v1=", ",", "=", NONCE, str(NOW), "0" * 128, "0" * 64, "nonce"])
values = st.lists(texts, max_size=6).map("".join) | st.sampled_from(list(signed().values())) | st.binary(max_size=40)
names = (
    st.sampled_from(["nonce", "s", b"s", "x-webhook-signature", "", "X"]) | st.text(max_size=10) | st.binary(max_size=5)
)


@given(
    pairs=st.lists(st.tuples(names, values | st.none() | st.integers()), max_size=8),
    body=st.binary(max_size=60) | st.just(BODY),
    pins=st.tuples(st.sampled_from([None, "s"]), st.sampled_from([None, "nonce"])),
)
def test_nothing_but_not_authentic_comes_of_anything(
    pairs: list[Any], body: bytes, pins: tuple[str | None, str | None]
) -> None:
    fuzzed = verifier(signature_header=pins[0], nonce_header=pins[1])
    for headers in (pairs, [*pairs, *signed().items()]):
        with contextlib.suppress(NotAuthentic):
            assert fuzzed.verify(headers, body).body == body == BODY


@given(body=st.binary(max_size=200), nonce=st.none() | st.from_regex(r"[!-\-/-~]{1,128}", fullmatch=True))
def test_what_is_signed_is_authentic(body: bytes, nonce: str | None) -> None:
    assert verifier().verify(signed(body, nonce=nonce), body).nonce == (nonce or "")
