"""The webhook secret, and the valid MAC of a forgery, are in no log, repr, traceback, response or file."""

import hashlib
import hmac
import logging
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import CANARY_SECRET
from webhook_deliveries import Seen, body, signed

from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import Event, HandlingPolicy, Receiver, SqliteInbox, Verifier

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
BODY = body(17)


class Everything(logging.Handler):
    """Collect all log records as text, with their tracebacks and fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{self.format(record)} {vars(record)!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.seen.extend(_texts(record.exc_info[1]))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    handler = Everything()
    logging.getLogger().addHandler(handler)
    yield handler.seen
    logging.getLogger().removeHandler(handler)


def _texts(error: BaseException) -> list[str]:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return ["".join(shown.format()), repr(error), str(error), repr(vars(error))]


def test_in_nothing_that_a_receiver_does(quick_path: Path, run: Run, logged: list[str]) -> None:
    texts: list[str] = []

    async def scenario() -> None:
        verifier = Verifier(Secret(CANARY_SECRET))
        inbox = SqliteInbox(quick_path / "inbox.db")
        to = Receiver(verifier, inbox, policy=HandlingPolicy(max_attempts=1), background=False)
        to.on(Event)(Seen(RuntimeError("a handler fails")))
        before = await to.handle(signed(BODY), BODY)
        async with to:
            for headers, content in (
                (signed(BODY), BODY),
                (signed(BODY, nonce=None), BODY),
                (signed(b"other"), BODY),
                (signed(BODY, at=1), BODY),
                (signed(b"junk"), b"junk"),
                ({}, b""),
            ):
                texts.append(repr(await to.handle(headers, content)))
            await to.process_pending()
            texts.extend(map(repr, await inbox.entries()))
        shown = (before, verifier, vars(verifier), to, vars(to), to.asgi, inbox, verifier.found)
        texts.extend(f"{one!r} {one}" for one in shown)

    run(scenario)
    texts.extend(path.read_bytes().decode("latin-1") for path in quick_path.iterdir())
    assert len(logged) > 3, "there was something to log"
    for text in (*texts, *logged):
        assert CANARY_SECRET not in text


@pytest.mark.parametrize("nonce", ["65f0c0ffee123", None])
def test_a_refusal_gives_away_neither_the_secret_nor_the_right_mac(nonce: str | None) -> None:
    """A traceback with locals does not help to sign the refused delivery."""
    now, shown = int(time.time()), list[str]()
    verifier = Verifier(CANARY_SECRET)
    for _ in range(2):
        with pytest.raises(NotAuthentic) as caught:
            verifier.verify(signed(b"another body", nonce=nonce, at=now), BODY)
        shown.extend(_texts(caught.value))
        verifier.verify(signed(BODY, nonce=nonce), BODY)  # now the headers are known, which takes another code path
    message = f"{nonce}.{now}.".encode() if nonce else f"{now}.".encode()
    right = hmac.digest(CANARY_SECRET.encode(), message + BODY, hashlib.sha512 if nonce else hashlib.sha256)
    for text in shown:
        assert CANARY_SECRET not in text
        assert right.hex() not in text.lower()
        assert repr(right) not in text


@pytest.mark.parametrize("secret", [f"{CANARY_SECRET}\n", f" {CANARY_SECRET}", f'"{CANARY_SECRET} "'])
def test_a_secret_that_is_refused_is_not_quoted(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        Verifier(secret)
    assert CANARY_SECRET not in str(caught.value)


def test_a_wrong_argument_beside_it_does_not_quote_it() -> None:
    try:
        Verifier(CANARY_SECRET, tolerance=-1)
    except UsageError:
        shown = str(sys.exc_info()[1])
    assert CANARY_SECRET not in shown
