"""What tests see of a bot that sells: what it said, the buttons it sent, and its ledger."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import mutable
from fake_telegram import FakeTelegram

from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import GrantStatus

if TYPE_CHECKING:
    from aiogram import Bot, Dispatcher

OWNER = 4242


@mutable
class Selling:
    """A bot that sells, and what surrounds it."""

    telegram: FakeTelegram
    dispatcher: "Dispatcher"
    bot: "Bot"
    fulfillment: Fulfillment

    def texts(self, chat_id: int) -> list[str]:
        return [said["text"] for said in self.telegram.said() if said["chat_id"] == chat_id]

    def buttons(self, number: int = -1) -> dict[str, str]:
        """Return what the buttons of a message say, with what they carry: the last one of those with buttons."""
        with_buttons = [
            arguments["reply_markup"]["inline_keyboard"]
            for method, arguments in self.telegram.calls
            if method in ("sendMessage", "editMessageReplyMarkup") and arguments.get("reply_markup")
        ]
        return {
            button["text"]: button.get("callback_data") or button["url"]
            for row in with_buttons[number]
            for button in row
        }

    async def becomes(self, ref: str, status: GrantStatus) -> None:
        async with asyncio.timeout(60):
            ledger = self.fulfillment.granter.ledger
            while (grant := await ledger.get(ref)) is None or grant.status is not status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def handled(self, number: int) -> None:
        await self.telegram.until(lambda: self.telegram.confirmed(number))


Sell = Callable[..., Any]
