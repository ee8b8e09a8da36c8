"""A bot that sells access to a chat for Telegram Stars: one payment, one token, whatever crashes or repeats.

Try it on a TGmembership of your own: run `tgmembership fake --port 8000`, export the three lines that it prints, and

    TELEGRAM_BOT_TOKEN=... python examples/aiogram_bot.py

Telegram hears that we have a payment only when `paid` returns, and by then it is in the ledger. `hand_over` does the
rest in the background, from the ledger alone, so that a restart continues where a crash interrupted.
"""

import asyncio
import contextlib
import logging
import os
from typing import Final

from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import TelegramAPIError
from aiogram.filters import Command
from aiogram.types import LabeledPrice, Message, PreCheckoutQuery

from tgmembership_async import CallError, Session, TGMembershipError
from tgmembership_async.ext.aiogram import setup
from tgmembership_async.grants import Grant, Granter, GrantStatus, SqliteLedger

PAUSE: Final = 60.0
SORRY: Final = "Your payment has arrived, and we are looking into your access. You will hear from us."

log = logging.getLogger("bot")
router = Router()


@router.message(Command("buy"))
async def offer(message: Message, tgm: Session) -> None:
    """Send an invoice for the first plan that is priced in Stars."""
    try:
        plans = await tgm.with_options(deadline=5).get_plans()  # other customers wait for this handler
    except CallError as error:
        log.warning("cannot offer anything: %s", error)
        await message.answer("Sorry, the shop is closed for a moment. Please try again later.")
        return
    plan = next(plan for plan in plans if plan.price.currency == "XTR")
    await message.answer_invoice(
        title=plan.name,
        description=f"Access for {plan.duration.text}",
        payload=str(plan.plan_id),
        currency="XTR",
        prices=[LabeledPrice(label=plan.name, amount=int(plan.price.amount))],
    )


@router.pre_checkout_query()
async def confirm(query: PreCheckoutQuery) -> None:
    """Let the customer pay."""
    await query.answer(ok=True)


@router.message(F.successful_payment)
async def paid(message: Message, granter: Granter, payments: asyncio.Event) -> None:
    """Write the payment down; an update that Telegram repeats has the same charge id, and changes nothing."""
    payment, customer = message.successful_payment, message.from_user
    if payment is None or customer is None:
        return
    await granter.plan(
        f"telegram:{payment.telegram_payment_charge_id}",
        plan_id=int(payment.invoice_payload),
        member_id=customer.id,
        note=str(message.chat.id),
    )
    payments.set()


async def hand_over(bot: Bot, granter: Granter, payments: asyncio.Event) -> None:
    """Grant what was paid and send the links: at the start, after each payment, and every minute for what failed."""
    async for grant in granter.grants(GrantStatus.UNKNOWN):  # what a crash interrupted
        await complain(bot, grant)
    while True:
        payments.clear()
        try:
            async with granter.run_planned() as run:
                async for grant in run:
                    if grant.status in (GrantStatus.UNKNOWN, GrantStatus.REFUSED):
                        await complain(bot, grant)
                    elif grant.status is GrantStatus.GRANTED:
                        await deliver(bot, granter, grant)
            async for grant in granter.undelivered():
                await deliver(bot, granter, grant)
            await granter.reconcile()  # what that settles is delivered the next time
        except TGMembershipError as error:
            log.warning("trying again in %g s: %s", PAUSE, error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(payments.wait(), PAUSE)


async def deliver(bot: Bot, granter: Granter, grant: Grant) -> None:
    """Send the link; while that fails, the ledger lists it as undelivered."""
    access = grant.token and (grant.token.link or grant.token.token)
    if await send(bot, grant, f"Thank you! Your access: {access}" if access else "Thank you! You have access now."):
        await granter.mark_delivered(grant.ref)


async def complain(bot: Bot, grant: Grant) -> None:
    """Tell the customer that it takes longer, and the owner that there is something to decide."""
    log.error("decide with `tgmembership grants`: %s is %s, %s", grant.ref, grant.status, grant.error)
    await send(bot, grant, SORRY)


async def send(bot: Bot, grant: Grant, text: str) -> bool:
    """Send a message to the chat of a grant, and tell whether that worked."""
    try:
        await bot.send_message(int(grant.note), text)
    except TelegramAPIError as error:
        log.warning("cannot write to chat %s: %s", grant.note, error)
        return False
    return True


async def main() -> None:
    """Run until SIGINT or SIGTERM."""
    url = os.environ.get("TELEGRAM_API_URL")  # a Bot API server of your own, if you run one
    api = TelegramAPIServer.from_base(url) if url else PRODUCTION
    bot = Bot(os.environ["TELEGRAM_BOT_TOKEN"], session=AiohttpSession(api=api))
    session, payments = Session.from_env(), asyncio.Event()
    dispatcher = Dispatcher(payments=payments)
    dispatcher.include_router(router)
    async with (
        Granter(session, SqliteLedger(os.environ.get("GRANTS_DB", "grants.db"))) as granter,
        asyncio.TaskGroup() as group,
    ):
        setup(dispatcher, session, granter)
        background = group.create_task(hand_over(bot, granter, payments))
        await dispatcher.start_polling(bot, handle_as_tasks=False)  # an update is confirmed when its handler is done
        background.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
