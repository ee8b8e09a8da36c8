"""A Verifier whose secret is in a file: the file may come later, and change, without a restart."""

import asyncio
import logging
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from asgi_server import on_uvicorn
from canary import CANARY_SECRET
from waiting import until
from webhook_deliveries import Seen, body, signed

from tgmembership_async import NotAuthentic, UsageError
from tgmembership_async.testing import Courier, FakeService, Postal
from tgmembership_async.testing.fake.deliveries import post_over_http
from tgmembership_async.webhooks import Event, Receiver, SqliteInbox, Verifier, sign

OLDER = "an-older-secret"


def keep(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


def is_authentic(verifier: Verifier, secret: str = CANARY_SECRET) -> bool:
    content = body()
    try:
        verifier.verify(sign(secret, content, nonce="n", timestamp=time.time()), content)
    except NotAuthentic:
        return False
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "webhook.secret"


def test_the_file_is_read_when_it_appears(path: Path) -> None:
    verifier = Verifier.from_file(path)
    with pytest.raises(UsageError, match=r"no webhook secret yet: .*No such file"):
        is_authentic(verifier)
    keep(path, "")
    with pytest.raises(UsageError, match=r"no webhook secret yet: .* is empty"):
        is_authentic(verifier)
    keep(path, f"{CANARY_SECRET}\n")
    assert is_authentic(verifier)
    assert not is_authentic(verifier, OLDER)


def test_a_file_that_changes_is_read_again(path: Path) -> None:
    keep(path, OLDER)
    verifier = Verifier.from_file(path)
    assert is_authentic(verifier, OLDER)
    os.utime(path, (1, 1))
    assert is_authentic(verifier, OLDER)
    keep(path, f"{CANARY_SECRET}\r\n{OLDER}\r\n")
    assert is_authentic(verifier)
    assert is_authentic(verifier, OLDER)
    keep(path, CANARY_SECRET)
    assert not is_authentic(verifier, OLDER)
    path.unlink()
    with pytest.raises(UsageError, match="no webhook secret yet"):
        is_authentic(verifier)


def test_a_file_that_did_not_change_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(path, CANARY_SECRET)
    os.utime(path, (1, 1))
    verifier = Verifier.from_file(path)
    assert is_authentic(verifier)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read again"))
    assert is_authentic(verifier)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_secret(path: Path, encoding: str) -> None:
    keep(path, f"{CANARY_SECRET}\r\n".encode(encoding))
    assert is_authentic(Verifier.from_file(path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80", "\N{ZERO WIDTH SPACE}\x00".encode()])
def test_a_file_without_a_usable_secret_is_like_none(path: Path, content: bytes) -> None:
    keep(path, content)
    with pytest.raises(UsageError, match="no webhook secret yet"):
        is_authentic(Verifier.from_file(path))


def test_a_file_with_a_broken_secret_does_not_show_it(path: Path) -> None:
    keep(path, f"{CANARY_SECRET}\x00")
    with pytest.raises(UsageError) as raised:
        is_authentic(Verifier.from_file(path))
    shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    ours = [str(frame.locals) for frame in shown.stack if "test_" not in frame.filename]
    assert len(ours) > 1
    assert CANARY_SECRET not in "".join(ours)
    assert raised.value.__context__ is None


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_file_that_everybody_may_read_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(path, CANARY_SECRET, 0o644)
    verifier = Verifier.from_file(path)
    with caplog.at_level(logging.WARNING):
        assert is_authentic(verifier)
        assert is_authentic(verifier)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["chmod 600"]


def test_its_repr_names_the_file_and_its_options_are_those_of_a_verifier(path: Path) -> None:
    assert repr(Verifier.from_file(path)) == f"<Verifier with the secrets in {path}>"
    with pytest.raises(UsageError, match="tolerance"):
        Verifier.from_file(path, tolerance=0)


async def test_without_a_secret_a_delivery_is_answered_503_and_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver(Verifier.from_file(path), probes=True)
    content = body()
    with caplog.at_level(logging.WARNING):
        answers = [await receiver.handle(signed(content), content) for _ in range(3)]
    assert [(answer.status, dict(answer.headers)["retry-after"]) for answer in answers] == 3 * [(503, "5")]
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["1 request(s) answered 503"]
    assert (await receiver.handle({}, b"")).status == 200, "a probe needs no secret"
    keep(path, CANARY_SECRET)
    assert (await receiver.handle(signed(content), content)).status == 200


async def test_a_webhook_that_boots_without_a_secret_loses_nothing_and_needs_no_restart(path: Path) -> None:
    service, paid = FakeService(), Seen()
    receiver = Receiver(Verifier.from_file(path), SqliteInbox(path.with_name("inbox.db")), probes=True)
    receiver.on(Event)(paid)
    statuses: list[int | None] = []

    async def post(url: str, headers: Mapping[str, str], content: bytes) -> int | None:
        statuses.append(await post_over_http(url, headers, content))
        if statuses == [503, 503]:
            keep(path, service.webhook.secret)  # type: ignore[union-attr]  # set below
        return statuses[-1]

    async with on_uvicorn(receiver.asgi) as url:
        service.set_webhook(url)
        service.order(plan_id=1, user_id=42)
        await Courier(service, Postal(pause=0), post=post).deliver()
        await asyncio.wait_for(until(lambda: bool(paid.events)), 60)
    assert statuses == [503, 503, 200]
    assert [event.data["user_id"] for event in paid.events] == ["42"]
