"""The owner's side: questions that arrive as messages, and commands to look into the ledger."""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiogram import Bot, F, Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.exceptions import TelegramAPIError, TelegramBadRequest
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, InlineKeyboardMarkup, Message

from tgmembership_async.errors import GrantError, StorageError, UsageError
from tgmembership_async.ext.aiogram.customers import notify_delay
from tgmembership_async.ext.aiogram.decisions import ACTIONS, Press, ask_again, buttons, facts, key_of, name_of
from tgmembership_async.ext.aiogram.lifespan import require_fulfillment
from tgmembership_async.ext.aiogram.recording import FINAL, Recording
from tgmembership_async.ext.aiogram.texts import Languages, Texts
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.grants.granter import Granter
from tgmembership_async.grants.model import SUCCEEDED, UNDECIDED, Grant, GrantStatus
from tgmembership_async.payments import Attention, Payment
from tgmembership_async.payments.telegram import payment_in, ref_of
from tgmembership_async.protocol.endpoints import check_id

_MOST_SHOWN: Final = 10
_MOST_FOUND: Final = 100
_TOLD: Final = frozenset({GrantStatus.PLANNED, GrantStatus.REFUSED, GrantStatus.UNKNOWN})
"""The states in which the customer waits for the owner, or for a later attempt."""
_logger: Final = logging.getLogger("tgmembership_async.ext.aiogram")


def ask_owner(
    bot: Bot,
    owner_ids: Collection[int],
    *,
    texts: Mapping[str, Texts] | None = None,
    language: str = "en",
    tell_customer: bool = True,
) -> Callable[[Grant | Attention], Awaitable[None]]:
    """Return the `attention` of a Fulfillment: it sends each owner the facts, with buttons for what may be decided.

    It is the `attention` of a PaymentReceiver as well, and sends its questions as text.

    `owner_ids` are the Telegram ids of users who have written to the bot; `owner_router` answers their presses. With
    `tell_customer` the customer hears that it takes longer. It fails, and so is tried again, if no owner can be
    reached.
    """
    owners, languages = _checked(owner_ids), Languages(texts)

    async def ask(about: Grant | Attention) -> None:
        texts = languages[language]
        if isinstance(about, Attention):
            await _notify(bot, owners, str(about))
            return
        await _notify(bot, owners, facts(about, texts), buttons(about, texts))
        if tell_customer and about.status in _TOLD:
            await notify_delay(bot, languages, about)

    return ask


async def _notify(bot: Bot, owners: Collection[int], text: str, markup: InlineKeyboardMarkup | None = None) -> None:
    """Send a message to each owner. Raises TelegramAPIError if none can be reached."""
    failures = list[TelegramAPIError]()
    for owner in owners:
        try:
            await bot.send_message(owner, text, reply_markup=markup, parse_mode=None)
        except TelegramAPIError as error:
            _logger.warning("owner %d cannot be asked: %s: %s", owner, text.partition("\n")[0], error)
            failures.append(error)
    if len(failures) == len(owners):
        raise failures[0]


def owner_router(owner_ids: Collection[int], *, texts: Mapping[str, Texts] | None = None) -> Router:
    """Return a router for the owners: commands to look into the ledger, and the buttons of `ask_owner`.

    `/held` shows what waits for a decision, `/undelivered` the links that are not delivered, `/sales` numbers, and
    `/find REF` one payment, `/find USER_ID` those of a user. Each button asks once more. A decision is kept in the
    ledger, with the owner's id in its reason. A button that was pressed before, or whose grant has changed, changes
    nothing. Commands of other users are not answered, and their buttons are refused. It needs
    `setup(..., fulfillment=...)`.

    The owners are notified of a payment that no earlier router has handled, because its payload is unknown: include
    this router last.
    """
    owners = _checked(owner_ids)
    desk = _Desk(Languages(texts), owners)
    router = Router(name="tgmembership owner")
    mine = F.from_user.id.in_(owners)
    router.message.register(desk.held, Command("held"), mine)
    router.message.register(desk.undelivered, Command("undelivered"), mine)
    router.message.register(desk.sales, Command("sales"), mine)
    router.message.register(desk.find, Command("find"), mine)
    router.callback_query.register(desk.press, Press.filter(), mine)
    router.callback_query.register(desk.refuse, Press.filter())
    router.message.register(desk.notify_of_payment, F.successful_payment)
    router.startup.register(require_fulfillment)
    router.shutdown.register(desk.recording.stop)
    return router


def _checked(owner_ids: Collection[int]) -> tuple[int, ...]:
    owners = tuple(dict.fromkeys(check_id("owner_ids", owner) for owner in owner_ids))
    if not owners:
        msg = "owner_ids must name at least one user: these users are asked for decisions"
        raise UsageError(msg)
    return owners


class _Desk:
    """The handlers of the owners' router."""

    def __init__(self, languages: Languages, owners: Collection[int]) -> None:
        self._languages = languages
        self._owners = owners
        self.recording = Recording()

    async def notify_of_payment(self, message: Message, bot: Bot, bots: Any = None) -> None:
        """Notify the owners of a payment that no router has handled, and leave it to later routers."""
        event = payment_in(message)
        if isinstance(event, Payment):
            event = Attention(event.ref, f"user {event.member_id} paid for plan {event.plan_id}", event.ref)
        text = self._languages["en"].not_taken.format(event=event)

        async def notify() -> None:
            try:
                await _notify(bot, self._owners, text)
            except FINAL as error:  # waiting for it would stop the bot for everybody
                _logger.critical("no owner can be notified: %s: %s", text, error)

        await self.recording.until_written(f"the question about {event.ref}", notify, polling=bots is not None)
        raise SkipHandler

    async def held(self, message: Message, fulfillment: Fulfillment) -> None:
        """Show what waits for a decision."""
        texts = self._texts(message)
        await self._show(message, fulfillment, fulfillment.granter.grants(UNDECIDED), texts.nothing_held)

    async def undelivered(self, message: Message, fulfillment: Fulfillment) -> None:
        """Show the links that are not delivered."""
        texts = self._texts(message)
        await self._show(message, fulfillment, fulfillment.granter.undelivered(), texts.nothing_undelivered)

    async def find(self, message: Message, command: CommandObject, fulfillment: Fulfillment) -> None:
        """Show one payment, or those of a user."""
        wanted = (command.args or "").strip()
        await self._show(message, fulfillment, _found(fulfillment.granter, wanted), self._texts(message).nothing_found)

    async def sales(self, message: Message, fulfillment: Fulfillment) -> None:
        """Show the number of grants, by the time of the last change of each row, and the number of open rows."""
        texts, now = self._texts(message), datetime.now(UTC)
        ages, plans = list[timedelta](), Counter[int | str]()
        async for grant in fulfillment.granter.grants(SUCCEEDED, now - timedelta(days=30)):
            ages.append(now - grant.updated_at)
            plans[grant.plan_id] += 1
        day, week = (sum(age <= timedelta(days=days) for age in ages) for days in (1, 7))
        sold = [texts.sold.format(plan_id=plan_id, count=count) for plan_id, count in plans.most_common(_MOST_SHOWN)]
        pending = await fulfillment.pending()
        waiting = texts.waiting.format(
            planned=pending.planned, undelivered=pending.undelivered, undecided=pending.undecided
        )
        text = texts.sales.format(day=day, week=week, month=len(ages), plans="\n".join(sold), waiting=waiting)
        await message.answer(text, parse_mode=None)

    async def press(self, query: CallbackQuery, callback_data: Press, fulfillment: Fulfillment) -> None:
        """Ask once more, go back, or decide."""
        texts = self._languages[query.from_user.language_code]
        grant = await _behind(fulfillment.granter, callback_data.key)
        if grant is None or not callback_data.is_about(grant):
            await _edit(query, None)
            await query.answer(texts.stale, show_alert=True)
        elif callback_data.step == "do":
            await self._decide(query, callback_data, fulfillment, grant)
        else:
            asks = callback_data.step == "ask"
            await _edit(query, ask_again(grant, callback_data.action, texts) if asks else buttons(grant, texts))
            await query.answer()

    async def refuse(self, query: CallbackQuery) -> None:
        """Refuse a button that a stranger has pressed."""
        _logger.warning("user %d is no owner, and pressed a button of the owners", query.from_user.id)
        await query.answer(self._languages[query.from_user.language_code].strangers, show_alert=True)

    async def _decide(self, query: CallbackQuery, press: Press, fulfillment: Fulfillment, grant: Grant) -> None:
        texts, owner = self._languages[query.from_user.language_code], query.from_user.id
        try:
            if press.action == "delivered":
                after = await fulfillment.granter.mark_delivered(grant.ref)
            else:
                reason = f"decided by owner {owner} in Telegram"
                after = await fulfillment.decide(grant.ref, press.action, reason=reason)
        except GrantError:  # another owner was faster
            await query.answer(texts.stale, show_alert=True)
            return
        except StorageError as error:
            _logger.warning("%s: a decision could not be stored: %s", grant.ref, error)
            await query.answer(texts.not_stored, show_alert=True)
            return
        done = texts.decided.format(action=name_of(press.action, texts), owner=owner)
        _logger.info("%s: owner %d decided %s", grant.ref, owner, press.action)
        await _edit(query, None, f"{facts(after, texts).splitlines()[0]}\n{done}")
        await query.answer(done)

    async def _show(self, message: Message, fulfillment: Fulfillment, rows: AsyncIterator[Grant], nothing: str) -> None:
        texts, count = self._texts(message), 0
        async for grant in rows:
            count += 1
            if count <= _MOST_SHOWN:
                made = await fulfillment.granter.ledger.decisions(grant.ref)
                await message.answer(facts(grant, texts, made), reply_markup=buttons(grant, texts), parse_mode=None)
        if not count:
            await message.answer(nothing, parse_mode=None)
        elif count > _MOST_SHOWN:
            await message.answer(texts.more.format(count=count - _MOST_SHOWN), parse_mode=None)

    def _texts(self, message: Message) -> Texts:
        return self._languages[None if message.from_user is None else message.from_user.language_code]


async def _found(granter: Granter, wanted: str) -> AsyncIterator[Grant]:
    """Yield the grant with this ref, or with this charge id of Telegram's, or those of the user with this id."""
    for ref in (wanted, ref_of(wanted)):
        with suppress(UsageError):  # a text that cannot be a ref finds nothing
            grant = await granter.ledger.get(ref)
            if grant is not None:
                yield grant
                return
    if wanted.isdecimal():
        member_id = int(wanted)
        for grant in await granter.ledger.search(str(member_id), limit=_MOST_FOUND):
            if grant.member_id == member_id:
                yield grant


async def _behind(granter: Granter, key: str) -> Grant | None:
    """Return the grant of a button, if it still needs a decision."""
    async for grant in granter.grants(tuple(ACTIONS)):
        if key_of(grant.ref) == key:
            return grant
    return None


async def _edit(query: CallbackQuery, markup: InlineKeyboardMarkup | None, text: str | None = None) -> None:
    """Change the message under a button; a message that is too old, or has this text already, stays unchanged."""
    if not isinstance(query.message, Message):
        return
    with suppress(TelegramBadRequest):
        if text is None:
            await query.message.edit_reply_markup(reply_markup=markup)
        else:
            await query.message.edit_text(text, reply_markup=markup, parse_mode=None)
