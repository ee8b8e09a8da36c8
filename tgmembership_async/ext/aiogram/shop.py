"""The shop: offers, invoices, payments and refunds."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiogram import Bot, F, Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.exceptions import TelegramAPIError
from aiogram.filters import Command, CommandStart
from aiogram.filters.callback_data import CallbackData
from aiogram.methods import CreateInvoiceLink, SendInvoice
from aiogram.types import (
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LabeledPrice,
    Message,
    PreCheckoutQuery,
    User,
)

from tgmembership_async.errors import CallError
from tgmembership_async.ext.aiogram.lifespan import require_fulfillment, require_session
from tgmembership_async.ext.aiogram.offers import STARS, SUBSCRIPTION_PERIOD, Assortment, Offer
from tgmembership_async.ext.aiogram.recording import FINAL, Recording
from tgmembership_async.ext.aiogram.texts import Languages, Texts
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants.model import Grant
from tgmembership_async.payments import Attention, Payment, Refund, record
from tgmembership_async.payments.telegram import is_plan_id, payment_in, refund_in
from tgmembership_async.session import Session
from tgmembership_async.values.secret import Secret

_ANSWERED_WITHIN: Final = 5.0  # seconds: other customers wait; Telegram gives a pre-checkout query 10
_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")


class Choice(CallbackData, prefix="tgm-buy"):
    """A press on a plan's button."""

    plan_id: int


def shop_router(
    *,
    provider_tokens: Mapping[str, str | Secret] | None = None,
    plan_ids: Collection[int] | None = None,
    texts: Mapping[str, Texts] | None = None,
) -> Router:
    """Return a router that sells plans: `/start` and `/buy` show them, and a payment is taken by the Fulfillment.

    It needs `setup(..., fulfillment=...)`. It sells the plans priced in Stars (XTR), and those in a currency with a
    token of its payment provider in `provider_tokens`; of these only `plan_ids`, if given. `texts` are by language
    code. An invoice's payload is the plan's id; payments with another payload are left to your own handlers, and to
    `owner_router`, which notifies the owners.

    A recurring plan of 30 days or one month, priced in Stars, is sold as a subscription of Telegram, which charges the
    customer every 30 days.

    Before the customer pays, the plan and its price are looked up and the ledger is proved to write. A payment is one
    ref, `telegram:CHARGE_ID`, each payment of a subscription too. While it cannot be recorded its update is not
    confirmed: with polling (`handle_as_tasks=False`) the handler waits, a webhook (`handle_in_background=False`) is
    answered with an error, and Telegram repeats the update. A refund abandons what is not granted yet, and the owner is
    notified of any other. Raises UsageError for wrong arguments.
    """
    shop = _Shop(Assortment(provider_tokens, plan_ids), Languages(texts))
    router = Router(name="tgmembership shop")
    private = F.chat.type == "private"
    router.message.register(shop.show, CommandStart(), private)
    router.message.register(shop.show, Command("buy"), private)
    router.callback_query.register(shop.choose, Choice.filter())
    router.pre_checkout_query.register(shop.confirm, F.invoice_payload.func(is_plan_id))
    router.message.register(shop.take, F.successful_payment)
    router.message.register(shop.give_back, F.refunded_payment)
    router.startup.register(require_fulfillment)
    router.startup.register(require_session)
    router.shutdown.register(shop.recording.stop)
    return router


class _Shop:
    """The handlers of a shop."""

    def __init__(self, assortment: Assortment, languages: Languages) -> None:
        self._assortment = assortment
        self._languages = languages
        self.recording = Recording()

    async def show(self, message: Message, bot: Bot, tgm: Session) -> None:
        """Show what is for sale; a single plan gets its invoice at once."""
        texts = self._texts(message.from_user)
        offers = await self._offers(tgm)
        if offers is None:
            await message.answer(texts.closed, parse_mode=None)
        elif not offers:
            await message.answer(texts.nothing, parse_mode=None)
        elif len(offers) == 1:
            await _send_invoice(bot, message.chat.id, next(iter(offers.values())), texts)
        else:
            await message.answer(texts.choose, reply_markup=_buttons(offers, texts), parse_mode=None)

    async def choose(self, query: CallbackQuery, callback_data: Choice, bot: Bot, tgm: Session) -> None:
        """Send the invoice of the chosen plan, with its current price."""
        texts = self._texts(query.from_user)
        offers = await self._offers(tgm)
        offer = None if offers is None else offers.get(callback_data.plan_id)
        if offer is None:
            await query.answer(texts.closed if offers is None else texts.changed, show_alert=True)
            return
        await query.answer()
        await _send_invoice(bot, query.from_user.id, offer, texts)

    async def confirm(self, query: PreCheckoutQuery, tgm: Session, fulfillment: Fulfillment) -> None:
        """Accept the payment if it can be recorded, and if offer and price are unchanged."""
        texts = self._texts(query.from_user)
        can_take, offers = await asyncio.gather(fulfillment.can_take(_ANSWERED_WITHIN), self._offers(tgm))
        offer = None if offers is None else offers.get(int(query.invoice_payload))
        problem: str | None = None
        if not can_take or offers is None:
            problem = texts.closed
        elif offer is None or not offer.costs(query.currency, query.total_amount):
            problem = texts.changed
        try:
            await query.answer(ok=problem is None, error_message=problem)
        except TelegramAPIError as error:  # the query has expired, and the customer cannot pay
            _logger.warning("a pre-checkout query was answered in vain: %s", error)

    async def take(self, message: Message, fulfillment: Fulfillment, bots: Any = None) -> None:
        """Take the payment. Only polling passes `bots`, and can wait without a limit."""
        await self._record(payment_in(message), fulfillment, polling=bots is not None)

    async def give_back(self, message: Message, fulfillment: Fulfillment, bots: Any = None) -> None:
        """Record a refund."""
        await self._record(refund_in(message), fulfillment, polling=bots is not None)

    async def _record(self, event: Payment | Refund | Attention, fulfillment: Fulfillment, *, polling: bool) -> None:
        name = f"the refund of {event.ref}" if isinstance(event, Refund) else str(event.ref)

        async def write() -> Grant | None:
            try:
                return await record(event, fulfillment, _leave)
            except FINAL as error:  # of `attention`: repeating a refund would stop the bot for everybody
                _logger.critical("no owner can be notified: %s: %s", event, error)
                return await fulfillment.granter.get(str(event.ref))

        if await self.recording.until_written(name, write, polling=polling) is None:
            raise SkipHandler

    def _texts(self, user: User | None) -> Texts:
        return self._languages[None if user is None else user.language_code]

    async def _offers(self, tgm: Session) -> dict[int, Offer] | None:
        """Return the offers, or None if the service does not answer."""
        try:
            plans = await tgm.with_options(deadline=_ANSWERED_WITHIN).get_plans()
        except CallError as error:
            _logger.warning("the shop is closed: %s", error)
            return None
        return self._assortment.of(plans)


async def _leave(event: Attention) -> None:
    _logger.error("no payment of this shop, and left to other handlers: %s", event)


def _buttons(offers: Mapping[int, Offer], texts: Texts) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(
        inline_keyboard=[
            [InlineKeyboardButton(text=offer.label(texts), callback_data=Choice(plan_id=plan_id).pack())]
            for plan_id, offer in offers.items()
        ]
    )


async def _send_invoice(bot: Bot, chat_id: int, offer: Offer, texts: Texts) -> None:
    token = offer.provider_token.reveal() if offer.currency != STARS else ""
    invoice: dict[str, Any] = {
        "title": offer.title,
        "description": offer.description(texts),
        "payload": str(offer.plan.plan_id),
        "provider_token": token,
        "currency": offer.currency,
        "prices": [LabeledPrice(label=offer.title, amount=offer.amount)],
    }
    if not offer.is_subscription:
        await bot(SendInvoice(chat_id=chat_id, **invoice))
        return
    # Telegram sells subscriptions by link only (documented). Older releases of aiogram do not declare the period.
    link = await bot(CreateInvoiceLink(**invoice, subscription_period=SUBSCRIPTION_PERIOD))
    button = InlineKeyboardButton(text=texts.subscribe, url=link)
    markup = InlineKeyboardMarkup(inline_keyboard=[[button]])
    await bot.send_message(chat_id, offer.label(texts), reply_markup=markup, parse_mode=None)
