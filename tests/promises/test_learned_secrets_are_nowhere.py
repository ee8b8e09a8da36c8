"""Secrets that a Session learns from replies, and those of a Verifier, are in no later error, log line or ledger."""

import logging
import re
import traceback
from pathlib import Path
from typing import Any

import anyio
import pytest
from canary import CANARY_KEY, CANARY_SECRET
from stub_transport import StubTransport, reply
from webhook_deliveries import Seen, body, signed

import tgmembership_async
from tgmembership_async import APIError, CallEnded, CallError, RetryPolicy, Session
from tgmembership_async.grants import Granter, SqliteLedger
from tgmembership_async.protocol.outcome import TransportFailure
from tgmembership_async.values.learned_secrets import LOGGERS, MOST_LEARNED, REDACT, Learned, Redact
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import Event, HandlingPolicy, ProjectVerifier, Receiver, SqliteInbox, Verifier

TOKEN = "t0kEn-of-a/customer"
SPELLINGS = [TOKEN, TOKEN.replace("/", "%2F"), TOKEN.replace("t", "\\\\u0074").replace("/", "\\\\/")]


def given(result: str) -> Any:
    return reply(f'{{"ok": true, "code": 200, "result": {result}}}')


def refusal(words: str, code: int = 404) -> Any:
    return reply(f'{{"ok": false, "code": {code}, "description": "{words}"}}', code)


def shown(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return "".join(traceback.format_exception(error)) + f"{error!r} {vars(error)!r} {cause!r}"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_access_token_is_in_no_later_error(spelling: str, run: Any) -> None:
    broken = TransportFailure(f"no connection: {TOKEN}", connecting=True)
    answers = [given(f'"{TOKEN}"'), refusal(f"{spelling} is used"), reply(f"<p>{spelling}", 404), broken]

    async def scenario() -> None:
        async with Session(1, CANARY_KEY, transport=StubTransport(*answers), retry=RetryPolicy(attempts=1)) as tg:
            assert (await tg.add_member(1, 42)).token == TOKEN, "the result itself is not masked"
            for _ in answers[1:]:
                with pytest.raises(CallError) as caught:
                    await tg.get_plans()
                assert TOKEN not in shown(caught.value)
                assert spelling not in shown(caught.value)
                assert "***" in str(caught.value)

    run(scenario)


@pytest.mark.parametrize(
    ("method", "result"), [("webhook", '{"url": "x", "secret": "%s"}'), ("addMember", '{"token": "%s"}')]
)
def test_what_a_call_by_name_returned_is_learned(method: str, result: str, run: Any) -> None:
    async def scenario() -> None:
        transport = StubTransport(given(result % TOKEN), refusal(f"{TOKEN} is used"))
        async with Session(1, CANARY_KEY, transport=transport) as tg:
            await tg.call(method, verb="POST")
            with pytest.raises(APIError) as caught:
                await tg.get_plans()
        assert TOKEN not in shown(caught.value)

    run(scenario)


def test_the_webhook_secret_that_was_set_is_in_no_later_error(run: Any) -> None:
    async def scenario() -> None:
        transport = StubTransport(given(f'{{"url": "https://x", "secret": "{TOKEN}"}}'), refusal(TOKEN))
        async with Session(1, CANARY_KEY, transport=transport) as tg:
            webhook = await tg.set_webhook("https://example.com/hook")
            assert webhook.secret == Secret(TOKEN)
            with pytest.raises(APIError) as caught:
                await tg.get_plans()
        assert TOKEN not in shown(caught.value)

    run(scenario)


def test_a_token_that_the_service_repeats_is_in_no_ledger(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "grants.db"

    async def scenario() -> None:
        transport = StubTransport(given(f'"{TOKEN}"'), refusal(f"{TOKEN} is used", 409))
        async with Session(1, CANARY_KEY, transport=transport) as tg:
            await tg.add_member(1, 41)
            async with Granter(tg, SqliteLedger(path)) as granter:
                with pytest.raises(CallError):
                    await granter.grant("pi_1", plan_id=1, member_id=42)

    anyio.run(scenario, backend=backend)
    assert TOKEN.encode() not in path.read_bytes()


def test_only_the_last_secrets_are_kept_and_short_ones_are_skipped() -> None:
    learned = Learned()
    for number in range(MOST_LEARNED + 1):
        learned.add(f"token-{number:04}")
    learned.add("short")
    assert learned.scrub_text("token-0000 token-0001 token-0064 short") == "token-0000 *** *** short"
    assert "token" not in repr(learned)


def test_a_receiver_logs_no_secret_that_others_put_into_its_lines(
    tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    secret = CANARY_SECRET

    async def scenario() -> None:
        inbox = SqliteInbox(tmp_path / "inbox.db")
        to = Receiver(Verifier(secret), inbox, policy=HandlingPolicy(max_attempts=1), background=False)
        to.on(Event)(Seen(RuntimeError(f"the secret is {secret}")))
        async with to:
            content = body(17)
            assert (await to.handle(signed(content), content)).status == 200
            await to.process_pending()
            twice = [*signed(content).items()]
            assert (await to.handle([*twice, *twice], content)).status == 401

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert "the secret is ***" in caplog.text
    assert secret not in caplog.text


@pytest.mark.parametrize("secret", [TOKEN, CANARY_KEY, *SPELLINGS[1:]])
def test_a_session_logs_no_secret_that_others_put_into_its_lines(
    secret: str, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def observe(_: CallEnded) -> None:
        raise RuntimeError(secret)

    async def scenario() -> None:
        transport = StubTransport(given(f'"{TOKEN}"'), given("[]"))
        async with Session(1, CANARY_KEY, transport=transport, observer=observe) as tg:
            await tg.add_member(1, 42)
            caplog.clear()
            await tg.get_plans()
            for name in LOGGERS:
                logging.getLogger(name).warning("%s raised", secret)

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert "RuntimeError: ***" in caplog.text
    assert caplog.messages.count("*** raised") == len(LOGGERS)
    assert secret not in caplog.text


@pytest.mark.parametrize("verifier", [Verifier, ProjectVerifier])
def test_the_secret_of_a_verifier_is_in_no_log(verifier: Any, caplog: pytest.LogCaptureFixture) -> None:
    kept = verifier(CANARY_SECRET)
    logging.getLogger("tgmembership_async.webhooks").warning("%r was called with %s", kept, CANARY_SECRET)
    assert caplog.messages == [f"{kept!r} was called with ***"]


def test_all_loggers_of_the_package_mask_secrets() -> None:
    files = Path(tgmembership_async.__file__).parent.rglob("*.py")
    named = {name for file in files for name in re.findall(r'getLogger\("(tgmem[^"]+)"\)', file.read_text("utf-8"))}
    assert named == set(LOGGERS)
    assert all(REDACT in logging.getLogger(name).filters for name in named)


def test_a_secret_may_be_added_while_another_thread_masks_a_record() -> None:
    redact, living = Redact(), [Learned() for _ in range(9)]
    redact.add(*living[:5])
    masking = iter(redact.scrubbers)
    next(masking)
    redact.add(*living[5:])
    assert len(list(masking)) == 4
    assert len(redact.scrubbers) == 9


def test_a_log_record_without_a_secret_is_left_as_it_is() -> None:
    redact = Redact()
    learned = Learned()
    learned.add(TOKEN)
    redact.add(learned)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s of %d", ("one", 2), None)
    assert redact.filter(record)
    assert record.args == ("one", 2)
    record.args = (TOKEN, 2)
    redact.filter(record)
    assert record.getMessage() == "*** of 2"
