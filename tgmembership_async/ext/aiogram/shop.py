"""The shop: from `/buy` to a payment that is taken, and back if it is refunded."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

from aiogram import Bot, F, Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.exceptions import TelegramAPIError
from aiogram.filters import Command, CommandStart
from aiogram.filters.callback_data import CallbackData
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
from tgmembership_async.ext.aiogram.customers import Customer
from tgmembership_async.ext.aiogram.lifespan import require_fulfillment
from tgmembership_async.ext.aiogram.offers import STARS, Assortment, Offer, is_plan_id
from tgmembership_async.ext.aiogram.recording import Recording
from tgmembership_async.ext.aiogram.texts import Languages, Texts
from tgmembership_async.fulfillment import Fulfillment
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
    code. An invoice's payload is the plan's id; payments with another payload are left to your own handlers.

    Before the customer pays, the plan and its price are looked up and the ledger is proved to write. A payment is one
    ref, `telegram:CHARGE_ID`, each payment of a subscription too. While it cannot be recorded its update is not
    confirmed: with polling (`handle_as_tasks=False`) the handler waits, a webhook (`handle_in_background=False`) is
    answered with an error, and Telegram repeats the update. A refund abandons what is not granted yet, and is told to
    the owner where it is. Raises UsageError for wrong arguments.
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
        said = self._said(message.from_user)
        offers = await self._offers(tgm)
        if offers is None:
            await message.answer(said.closed, parse_mode=None)
        elif not offers:
            await message.answer(said.nothing, parse_mode=None)
        elif len(offers) == 1:
            await _send_invoice(bot, message.chat.id, next(iter(offers.values())), said)
        else:
            await message.answer(said.choose, reply_markup=_buttons(offers, said), parse_mode=None)

    async def choose(self, query: CallbackQuery, callback_data: Choice, bot: Bot, tgm: Session) -> None:
        """Send the invoice of the plan that was chosen, as it is now."""
        said = self._said(query.from_user)
        offers = await self._offers(tgm)
        offer = None if offers is None else offers.get(callback_data.plan_id)
        if offer is None:
            await query.answer(said.closed if offers is None else said.changed, show_alert=True)
            return
        await query.answer()
        await _send_invoice(bot, query.from_user.id, offer, said)

    async def confirm(self, query: PreCheckoutQuery, tgm: Session, fulfillment: Fulfillment) -> None:
        """Let the customer pay, if the payment can be recorded and buys what it was offered for."""
        said = self._said(query.from_user)
        can_take, offers = await asyncio.gather(fulfillment.can_take(_ANSWERED_WITHIN), self._offers(tgm))
        offer = None if offers is None else offers.get(int(query.invoice_payload))
        problem: str | None = None
        if not can_take or offers is None:
            problem = said.closed
        elif offer is None or not offer.costs(query.currency, query.total_amount):
            problem = said.changed
        try:
            await query.answer(ok=problem is None, error_message=problem)
        except TelegramAPIError as error:  # it waited for too long: then the customer was not let pay
            _logger.warning("a pre-checkout query was answered in vain: %s", error)

    async def take(self, message: Message, fulfillment: Fulfillment, bots: Any = None) -> None:
        """Take the payment. Only polling hands out `bots`, and can wait for as long as it lasts."""
        payment, user = message.successful_payment, message.from_user
        assert payment is not None  # noqa: S101 - the filter
        ref = ref_of(payment.telegram_payment_charge_id)
        if user is None or not is_plan_id(payment.invoice_payload):
            _logger.error("%s is no payment of this shop, and is left to other handlers: its payload is no plan", ref)
            raise SkipHandler
        plan_id, note = int(payment.invoice_payload), str(Customer.who_paid(user, message.chat))
        await self.recording.until_written(
            ref,
            lambda: fulfillment.take(ref, plan_id=plan_id, member_id=user.id, note=note, paid_at=message.date),
            polling=bots is not None,
        )

    async def give_back(self, message: Message, fulfillment: Fulfillment, bots: Any = None) -> None:
        """Record a refund. Its message may come from the bot itself; the chat is the customer's."""
        charge_id, payload = _refund_in(message)
        if not is_plan_id(payload):
            raise SkipHandler
        ref, note = ref_of(charge_id), str(message.chat.id)
        member_id = message.chat.id if message.chat.type == "private" else None
        await self.recording.until_written(
            f"the refund of {ref}",
            lambda: fulfillment.refunded(
                ref, plan_id=int(payload), member_id=member_id, note=note, reason="refunded in Telegram"
            ),
            polling=bots is not None,
        )

    def _said(self, user: User | None) -> Texts:
        return self._languages[None if user is None else user.language_code]

    async def _offers(self, tgm: Session) -> dict[int, Offer] | None:
        """Return what is for sale, or None while the service does not tell."""
        try:
            plans = await tgm.with_options(deadline=_ANSWERED_WITHIN).get_plans()
        except CallError as error:
            _logger.warning("the shop is closed: %s", error)
            return None
        return self._assortment.of(plans)


def ref_of(charge_id: str) -> str:
    """Return the ref of a payment in Telegram."""
    return f"telegram:{charge_id}"


def _refund_in(message: Message) -> tuple[str, str]:
    """Return charge id and payload; an aiogram that does not know refunds yet keeps them as it got them."""
    refund: Any = getattr(message, "refunded_payment", None)
    told = cast("Mapping[str, str]", refund if isinstance(refund, dict) else vars(refund))
    return told["telegram_payment_charge_id"], told["invoice_payload"]


def _buttons(offers: Mapping[int, Offer], said: Texts) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(
        inline_keyboard=[
            [InlineKeyboardButton(text=offer.label(said), callback_data=Choice(plan_id=plan_id).pack())]
            for plan_id, offer in offers.items()
        ]
    )


async def _send_invoice(bot: Bot, chat_id: int, offer: Offer, said: Texts) -> None:
    token = offer.provider_token.reveal() if offer.currency != STARS else ""
    await bot.send_invoice(
        chat_id,
        title=offer.title,
        description=offer.description(said),
        payload=str(offer.plan.plan_id),
        provider_token=token,
        currency=offer.currency,
        prices=[LabeledPrice(label=offer.title, amount=offer.amount)],
    )
