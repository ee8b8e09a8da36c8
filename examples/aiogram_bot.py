"""A bot that sells access to a chat for Telegram Stars: one payment, one link, also after crashes and repeated updates.

To try it with a fake service, run `tgmembership fake --port 8000`, paste the three lines that it prints into another
terminal, and run there

    TELEGRAM_BOT_TOKEN=... TELEGRAM_OWNER_IDS=... python examples/aiogram_bot.py

with the token from BotFather and your own Telegram id. Send the bot /start once, so that it may write to you. An update
with a payment is confirmed to Telegram when the payment is in the ledger. All further steps run in the background, from
the ledger, so that a restart continues them after a crash. The bot asks you about grants that only a person can decide.
"""

import os
import sys

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from tgmembership_async import Session
from tgmembership_async.ext.aiogram import ask_owner, deliver_link, owner_router, setup, shop_router
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants import Granter, SqliteLedger

telegram = TelegramAPIServer.from_base(os.environ.get("TELEGRAM_API_URL", "https://api.telegram.org"))
bot = Bot(os.getenv("TELEGRAM_BOT_TOKEN") or sys.exit("set TELEGRAM_BOT_TOKEN"), session=AiohttpSession(api=telegram))
owner_ids = [int(owner) for owner in (os.getenv("TELEGRAM_OWNER_IDS") or sys.exit("set TELEGRAM_OWNER_IDS")).split(",")]
dispatcher, session = Dispatcher(), Session.from_env()
granter = Granter(session, SqliteLedger(os.environ.get("GRANTS_DB", "grants.db")))
fulfillment = Fulfillment(granter, deliver=deliver_link(bot), attention=ask_owner(bot, owner_ids))
setup(dispatcher, session, fulfillment=fulfillment)
dispatcher.include_routers(shop_router(), owner_router(owner_ids))
if __name__ == "__main__":
    dispatcher.run_polling(bot, handle_as_tasks=False)  # an update is confirmed when its handler is done
