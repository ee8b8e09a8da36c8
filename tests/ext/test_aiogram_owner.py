"""`owner_router` and `ask_owner` under the real Dispatcher and Bot, which talk to a fake Telegram over HTTP."""

from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from attrs import evolve
from fake_telegram import CUSTOMER, FakeTelegram
from selling_bot import OWNER, Sell

from tgmembership_async.grants import Grant, GrantStatus
from tgmembership_async.testing import FakeService, Fault


async def test_an_odd_row_ends_as_a_question_and_stops_nobody(telegram: FakeTelegram, sell: Sell) -> None:
    async with sell() as selling:
        await selling.fulfillment.take("odd", plan_id=1, note="no chat")
        telegram.pay("4")
        await selling.becomes("telegram:stars-1", GrantStatus.DELIVERED)
        await telegram.until(lambda: selling.texts(OWNER))
        assert "user -, note: no chat\n" in selling.texts(OWNER)[0]
        await selling.handled(telegram.write("/undelivered", user_id=OWNER))
        await selling.handled(telegram.press(selling.buttons()["Has the link"], user_id=OWNER))
        await selling.handled(telegram.press(selling.buttons()["Yes: Has the link"], user_id=OWNER))
        await selling.becomes("odd", GrantStatus.DELIVERED)
        await selling.handled(telegram.write("/undelivered", user_id=OWNER))
    assert selling.texts(CUSTOMER["id"])[-1] == "Every link has been delivered.", "its answers go to the chat"


def test_an_empty_note_is_left_out(ours: Any) -> None:
    facts, texts = import_module(f"{ours.__name__}.decisions").facts, ours.Texts
    grant = Grant("pi_1", 1, 42, GrantStatus.UNKNOWN, None, 1, "", datetime(2026, 1, 2, tzinfo=UTC))
    assert facts(grant, texts()).splitlines()[1] == "plan 1, user 42"
    assert facts(evolve(grant, note="chat 7"), texts()).splitlines()[1] == "plan 1, user 42, note: chat 7"
    assert facts(grant, texts(facts="{ref}, Notiz: {note}")).splitlines()[0] == "pi_1, Notiz: -"


@pytest.mark.parametrize(
    ("button", "status", "decision"),
    [
        ("It was granted", GrantStatus.DELIVERED, "granted"),
        ("Send again", GrantStatus.DELIVERED, "retry"),
        ("Refunded", GrantStatus.ABANDONED, "abandon"),
    ],
)
async def test_the_owner_decides_by_buttons(
    telegram: FakeTelegram, service: FakeService, sell: Sell, button: str, status: GrantStatus, decision: str
) -> None:
    service.inject(Fault("reset", method="addMember", when="before", count=1))
    async with sell() as selling:
        telegram.pay("4")
        await telegram.until(lambda: selling.texts(OWNER) and selling.texts(CUSTOMER["id"]))
        assert "telegram:stars-1" in selling.texts(OWNER)[0]
        assert "looking into" in selling.texts(CUSTOMER["id"])[0]
        first = selling.buttons()
        assert set(first) == {"It was granted", "Send again", "Refunded"}
        await selling.handled(telegram.press(first[button], user_id=1))
        assert "Only the owner" in telegram.said("answerCallbackQuery")[-1]["text"]
        await selling.handled(telegram.press(first[button], user_id=OWNER))
        sure = selling.buttons()
        await selling.handled(telegram.press(sure["Back"], user_id=OWNER))
        assert selling.buttons() == first
        for _ in range(2):
            await selling.handled(telegram.press(sure[f"Yes: {button}"], user_id=OWNER))
        await selling.becomes("telegram:stars-1", status)
        await selling.handled(telegram.press(first["Refunded"], user_id=OWNER))
        answers = [answer.get("text", "") for answer in telegram.said("answerCallbackQuery")]
        assert [f"decided by {OWNER}" in answer for answer in answers] == [False, False, False, True, False, False]
        assert "decided or has changed" in answers[-1]
        made = await selling.fulfillment.granter.ledger.decisions("telegram:stars-1")
        assert [(one.decision, one.reason) for one in made] == [(decision, f"decided by owner {OWNER} in Telegram")]


async def test_the_owner_looks_into_the_ledger(telegram: FakeTelegram, service: FakeService, sell: Sell) -> None:
    service.inject(Fault("error", method="addMember", status=404, count=1))
    async with sell() as selling:
        telegram.pay("4", charge="refused")
        await selling.becomes("telegram:refused", GrantStatus.REFUSED)
        telegram.pay("4", charge="good")
        await selling.becomes("telegram:good", GrantStatus.DELIVERED)
        before = len(telegram.said())
        for command in ("/held", "/sales", "/find good", "/find 777", "/find nothing", "/find"):
            await selling.handled(telegram.write(command, user_id=OWNER))
        held, sales, good, first, second, *nothing = [said["text"] for said in telegram.said()[before:]]
        assert "telegram:refused" in held
        assert "Granted: 1 in a day" in sales
        assert "1 to be decided" in sales
        assert good.startswith("telegram:good")
        assert {first.split()[0], second.split()[0]} == {"telegram:refused", "telegram:good"}
        assert ["Nothing found" in text for text in nothing] == [True, True]
        assert not any(str(token.link) in text for token in service.tokens for text in (held, sales, good, first))
        told = len(telegram.said())
        await selling.handled(telegram.write("/held", user_id=1))
        assert len(telegram.said()) == told, "strangers get no answer"


async def test_long_lists_are_cut(telegram: FakeTelegram, service: FakeService, sell: Sell) -> None:
    service.inject(Fault("error", method="addMember", status=401))
    async with sell(every=600) as selling:
        for number in range(13):
            await selling.fulfillment.granter.plan(f"r{number}", plan_id=1, member_id=5)
        await selling.handled(telegram.write("/find 5", user_id=OWNER))
    assert len(telegram.said()) == 11
    assert telegram.said()[-1]["text"] == "And 3 more."
