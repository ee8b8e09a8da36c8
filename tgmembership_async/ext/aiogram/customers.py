"""The customer's side of a grant: the chat and the language, and the link as a button."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from tgmembership_async.ext.aiogram.texts import Languages, Texts
from tgmembership_async.grants.model import Grant
from tgmembership_async.payments.telegram import Customer

_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")


def customer_of(grant: Grant) -> Customer:
    """Return the customer in a grant's note, or else its member. Raises LookupError if there is neither."""
    customer = Customer.in_note(grant.note)
    if customer is not None:
        return customer
    if grant.member_id is None:
        msg = f"{grant.ref}: neither its note nor a member says where to send the link"
        raise LookupError(msg)
    return Customer(grant.member_id)


def deliver_link(bot: Bot, *, texts: Mapping[str, Texts] | None = None) -> Callable[[Grant], Awaitable[None]]:
    """Return the `deliver` of a Fulfillment: it sends the customer the link as a button.

    It writes to the chat at the beginning of the grant's note, as `shop_router` leaves it there, or to the member. The
    bot may be one that is not polling yet. What Telegram refuses is raised, so that it is tried again.
    """
    languages = Languages(texts)

    async def deliver(grant: Grant) -> None:
        customer = customer_of(grant)
        texts = languages[customer.language]
        token = grant.token
        if token is None or not (token.link or token.token):
            await bot.send_message(customer.chat_id, texts.thanks_without_link, parse_mode=None)
        elif token.link:
            await _send_link(bot, customer, texts, token.link)
        else:
            await bot.send_message(customer.chat_id, texts.thanks_with_code.format(code=token.token), parse_mode=None)

    return deliver


async def _send_link(bot: Bot, customer: Customer, texts: Texts, link: str) -> None:
    button = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text=texts.open, url=link)]])
    try:
        await bot.send_message(customer.chat_id, texts.thanks, reply_markup=button, parse_mode=None)
    except TelegramBadRequest as error:
        if "BUTTON" not in error.message.upper() and "URL" not in error.message.upper():
            raise
        # Telegram refuses this URL on a button. The customer has paid for it, so send it as text.
        await bot.send_message(customer.chat_id, texts.thanks_with_code.format(code=link), parse_mode=None)


async def notify_delay(bot: Bot, languages: Languages, grant: Grant) -> None:
    """Notify the customer of a delay; a failure is only logged."""
    try:
        customer = customer_of(grant)
        await bot.send_message(customer.chat_id, languages[customer.language].sorry, parse_mode=None)
    except Exception as error:  # noqa: BLE001 - the owner was notified, which is enough
        _logger.warning("%s: the customer cannot be notified of the delay: %s", grant.ref, type(error).__name__)
