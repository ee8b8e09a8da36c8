"""Webhooks of API v2: both readings of the secret, what is refused for good, and what must be sent again."""

import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async import UsageError
from tgmembership_async.testing import FakeProject
from tgmembership_async.webhooks import (
    CannotVerify,
    Event,
    NotAuthentic,
    PaymentRequestCompleted,
    ProjectVerifier,
    Receiver,
)
from tgmembership_async.webhooks.secret_file import NoSecret

SECRET = "0f" * 32
HEADER = "X-Webhook-Signature"


def signed(body: bytes, reading: Any = "text", at: float | None = None) -> dict[str, str]:
    project = FakeProject(signs_with=reading)
    secret = project.set_webhook("https://shop.example/").secret
    headers = project.sign_delivery(body, secret, timestamp=time.time() if at is None else at, nonce=None)
    return {**headers, "secret": secret}


@pytest.mark.parametrize("reading", ["text", "bytes"])
def test_both_readings_verify_and_the_right_one_is_told(reading: Any) -> None:
    headers = signed(b"{}", reading)
    verifier = ProjectVerifier(headers["secret"])
    assert verifier.verify(headers, b"{}").body == b"{}"
    assert verifier.matched == reading
    assert ProjectVerifier(headers["secret"], reading=reading).verify(headers, b"{}").nonce == ""
    other: Any = "bytes" if reading == "text" else "text"
    with pytest.raises(CannotVerify):
        ProjectVerifier(headers["secret"], reading=other).verify(headers, b"{}")


@given(body=st.binary(max_size=200), at=st.integers(0, 10**11 - 1), position=st.integers(0, 63))
def test_a_body_verifies_unless_anything_is_changed(body: bytes, at: int, position: int) -> None:
    headers = signed(body, at=at)
    verifier = ProjectVerifier(headers["secret"], clock=lambda: at)
    assert verifier.verify(headers, body).signed_at.timestamp() == at
    mac = list(headers[HEADER])
    mac[3 + position] = "0" if mac[3 + position] != "0" else "1"
    for changed, content in ((headers, body + b"x"), ({**headers, HEADER: "".join(mac)}, body)):
        with pytest.raises(NotAuthentic) as caught:
            verifier.verify(changed, content)
        assert not isinstance(caught.value, CannotVerify)


def test_a_wrong_clock_or_project_can_be_our_own_fault() -> None:
    headers = signed(b"{}")
    for options in ({"clock": lambda: time.time() + 400}, {"project_id": "another"}):
        with pytest.raises(CannotVerify):
            ProjectVerifier(headers["secret"], **options).verify(headers, b"{}")


def test_a_project_is_the_same_in_capital_letters() -> None:
    headers, named = signed(b"{}"), "ABCDEF00-0000-4000-8000-000000000001"
    verifier = ProjectVerifier(headers["secret"], project_id=named)
    assert verifier.verify({**headers, "X-Project-ID": named.lower()}, b"{}").body == b"{}"


@pytest.mark.parametrize("headers", [{}, {HEADER: "t=1"}, {HEADER: f"v1={'0' * 128},t=1"}])
def test_a_request_without_a_signature_of_v2_is_not_authentic(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthentic) as caught:
        ProjectVerifier(SECRET).verify(headers, b"")
    assert not isinstance(caught.value, CannotVerify)


def test_a_receiver_answers_503_until_its_secret_has_verified_and_then_401() -> None:
    project = FakeProject()
    secret = project.set_webhook("https://shop.example/").secret
    payment = project.pay(42)
    body = project.outbox.take()[0].body()
    right = project.sign_delivery(body, secret, timestamp=time.time(), nonce=None)
    seen: list[Event] = []
    receiver = Receiver(ProjectVerifier(secret))

    @receiver.on(PaymentRequestCompleted)
    async def _(event: PaymentRequestCompleted) -> None:
        seen.append(event)
        assert event.payment_request_id == payment

    async def run() -> list[int]:
        deliveries = [(right, body + b" "), (right, body), (right, body), (right, body + b" ")]
        return [(await receiver.handle(headers, content)).status for headers, content in deliveries]

    assert anyio.run(run) == [503, 200, 200, 401]
    assert len(seen) == 1


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(ProjectVerifier(SECRET)) + repr(vars(ProjectVerifier(SECRET)))


def test_the_file_is_read_when_it_appears_and_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "webhook.secret"
    verifier, headers = ProjectVerifier.from_file(path), signed(b"{}", "bytes")
    assert repr(verifier) == f"<ProjectVerifier, secret in {path} read as text or bytes>"
    with pytest.raises(NoSecret, match=r"no webhook secret yet: .*No such file"):
        verifier.verify(headers, b"{}")
    keep(path, SECRET)
    with pytest.raises(CannotVerify):
        verifier.verify(headers, b"{}")
    keep(path, f"{SECRET}\n{headers['secret']}\n")
    assert verifier.verify(headers, b"{}").body == b"{}"
    assert verifier.matched == "bytes"
    with pytest.raises(NotAuthentic) as forged:
        verifier.verify(headers, b"{ }")
    assert not isinstance(forged.value, CannotVerify)
    keep(path, SECRET)
    with pytest.raises(CannotVerify):  # answered 503: the new secret may be a wrong one
        verifier.verify(headers, b"{}")
    assert verifier.matched is None
    path.unlink()
    with pytest.raises(NoSecret):
        verifier.verify(headers, b"{}")


def test_a_file_without_a_secret_of_the_pinned_reading_is_like_none(tmp_path: Path) -> None:
    path = tmp_path / "webhook.secret"
    keep(path, "no-hex-digits")
    headers = signed(b"{}")
    with pytest.raises(NoSecret, match="one of hex digits"):
        ProjectVerifier.from_file(path, reading="bytes").verify(headers, b"{}")
    with pytest.raises(CannotVerify):
        ProjectVerifier.from_file(path).verify(headers, b"{}")
    with pytest.raises(UsageError, match="tolerance"):
        ProjectVerifier.from_file(path, tolerance=0)


async def test_without_a_secret_in_its_file_a_delivery_is_answered_503(tmp_path: Path) -> None:
    path, project = tmp_path / "webhook.secret", FakeProject()
    secret = project.set_webhook("https://shop.example/").secret
    project.pay(42)
    body = project.outbox.take()[0].body()
    headers = project.sign_delivery(body, secret, timestamp=time.time(), nonce=None)
    receiver = Receiver(ProjectVerifier.from_file(path))
    assert (await receiver.handle(headers, body)).status == 503
    keep(path, secret)
    assert (await receiver.handle(headers, body)).status == 200


def keep(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
