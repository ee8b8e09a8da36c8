"""Any request of a stranger to a webhook raises NotAuthentic, and calls no handler."""

import contextlib
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
from canary import CANARY_SECRET
from hypothesis import given
from hypothesis import strategies as st
from webhook_deliveries import Seen, body, signed

from tgmembership_async.errors import NotAuthentic
from tgmembership_async.webhooks import Event, Receiver, Verifier

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
NOW = int(time.time())
BODY = body(17)
RIGHT = {nonce: list(signed(BODY, nonce=nonce, at=NOW).items()) for nonce in ("65f0c0ffee123", None)}
VERBS = ("POST", "GET", "HEAD", "PUT", "DELETE", "", "\x00")

words = st.sampled_from(
    ["t=", "v1=", ",", "=", ".", f"{NOW}", "0" * 128, "f" * 64, "65f0c0ffee123", "\x00", "\r\n", "ä"]
)
values = st.one_of(
    st.lists(words, max_size=8).map("".join),
    st.text(max_size=200),
    st.sampled_from([value for pairs in RIGHT.values() for _, value in pairs]),
    st.sampled_from(["v1=" * 50_000, "t=1," * 50_000, "x" * 100_000, "9" * 100_000]),
)
names = st.one_of(
    st.sampled_from(["x-webhook-signature", "X-Webhook-Nonce", "nonce", "s", "content-length", ""]),
    st.text(max_size=20),
)
pairs = st.lists(st.tuples(names, values), max_size=10)
as_bytes = pairs.map(lambda found: [(name.encode(), value.encode()) for name, value in found])
pins = st.tuples(st.sampled_from([None, "x-webhook-signature", "s"]), st.sampled_from([None, "x-webhook-nonce", "s"]))


def verifier(pinned: tuple[str | None, str | None] = (None, None), *, learned: bool = False) -> Verifier:
    made = Verifier(
        ["an-older-secret", CANARY_SECRET], signature_header=pinned[0], nonce_header=pinned[1], clock=lambda: NOW
    )
    if learned:
        made.verify(RIGHT["65f0c0ffee123"], BODY)
    return made


@given(headers=pairs | as_bytes, content=st.binary(max_size=300) | st.just(BODY), pinned=pins)
def test_of_any_headers_and_any_body(headers: Any, content: bytes, pinned: tuple[str | None, str | None]) -> None:
    try:
        delivery = verifier(pinned).verify(headers, content)
    except NotAuthentic:
        return
    assert (delivery.body, content) == (BODY, BODY), "only what was signed is authentic"


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("nonce", RIGHT)
@given(data=st.data())
def test_of_an_authentic_delivery_that_was_tampered_with(
    data: st.DataObject,
    nonce: str | None,
    learned: bool,  # noqa: FBT001 - whether the verifier knows the headers already
) -> None:
    """A delivery is not authentic after any signed part was changed, doubled, dropped or exchanged."""
    headers, content = list(RIGHT[nonce]), BODY
    how = data.draw(st.sampled_from(["body", "value", "drop", "double"]))
    index = data.draw(st.integers(0, len(headers) - 1))
    name, value = headers[index]
    match how:
        case "body":
            content = _changed(data, content)
        case "value":
            headers[index] = name, _changed(data, value.encode()).decode("latin-1")
        case "drop":
            headers.pop(index)
        case _:
            headers.append((name, value))
    try:
        delivery = verifier(learned=learned).verify(headers, content)
    except NotAuthentic:
        return
    # The notation of a header is not signed: upper case digits, white space, and keys other than `t` and `v1`.
    assert how in ("body", "value")
    assert delivery == verifier().verify(RIGHT[nonce], BODY)


def _changed(data: st.DataObject, content: bytes) -> bytes:
    """Overwrite, insert or delete one byte."""
    index, byte = data.draw(st.integers(0, len(content) - 1)), bytes([data.draw(st.integers(0, 255))])
    kept = data.draw(st.integers(0, 1))
    return content[:index] + data.draw(st.sampled_from([byte, b""])) + content[index + kept :]


@pytest.mark.parametrize("options", [{}, {"probes": True}])
@given(verb=st.sampled_from(VERBS), headers=as_bytes, parts=st.lists(st.binary(max_size=200), max_size=4))
def test_behind_asgi_every_answer_is_one_of_the_documented(
    verb: str, headers: list[tuple[bytes, bytes]], parts: list[bytes], options: Any
) -> None:
    statuses: list[int] = []
    receiver, seen = Receiver(verifier(), max_body=300, **options), Seen()
    receiver.on(Event)(seen)
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": verb, "headers": headers}
    with contextlib.suppress(StopIteration):
        step: Generator[Any, Any, None] = receiver.asgi(scope, receive, send).__await__()
        step.send(None)  # a refusal does not await anything
    assert statuses in ([401], [405], [413], [200] if options else [])
    assert seen.events == []


@pytest.mark.parametrize(
    "nesting", [b"[" * 30_000, b'{"event":' * 5_000, b'{"event": "x", "data": {"a":' + b"[" * 20_000]
)
def test_what_is_authentic_may_be_hostile_too(nesting: bytes, run: Run) -> None:
    async def scenario() -> None:
        receiver, seen = Receiver(verifier()), Seen()
        receiver.on(Event)(seen)
        assert (await receiver.handle(signed(nesting, at=NOW), nesting)).status == 400
        assert seen.events == []

    run(scenario)
