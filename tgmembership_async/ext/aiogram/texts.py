"""The texts of the bot: English is built in, and other languages are a mapping by language code."""

from collections.abc import Mapping
from string import Formatter
from typing import Final

from attrs import fields, frozen

from tgmembership_async.errors import UsageError


@frozen(kw_only=True)
class Texts:
    """The texts of the bot, in English unless replaced: `Texts(choose="Was darf es sein?")`.

    A text may use the names in braces that its default uses, and no others; raises UsageError otherwise. Telegram gets
    all of them as plain text.
    """

    # To customers.
    choose: str = "What would you like to buy?"
    plan: str = "{name}, {duration}: {price}"
    stars: str = "{amount} ⭐"
    money: str = "{amount} {currency}"
    description: str = "Access for {duration}"
    subscribe: str = "Subscribe"
    nothing: str = "There is nothing for sale at the moment."
    closed: str = "Sorry, the shop is closed for a moment. Please try again later."
    changed: str = "This offer has changed. Please choose again: /buy"
    thanks: str = "Thank you! Open your access with the button below. The link works once."
    thanks_with_code: str = "Thank you! Your access: {code}"
    thanks_without_link: str = "Thank you! Your access was granted. If you have no link, please write to us."
    open: str = "Open"
    sorry: str = "Your payment has arrived, and we are looking into your access. You will hear from us."

    # To owners.
    facts: str = "{ref}\nplan {plan_id}, user {user}, note: {note}\n{status} since {since}, attempts: {attempts}"
    unknown: str = (
        "It is not known whether this payment got its access: look at the bot on TGmembership, then decide. If you "
        "decide that it was granted, the customer gets no link from this bot, for the link is not known."
    )
    refused: str = "The service refused this grant, and the customer has paid: fix the cause, then decide."
    planned: str = "This payment could not be sent to the service yet. The bot retries it automatically."
    undelivered: str = "The link cannot be delivered to the customer. The bot retries it automatically."
    not_taken: str = "A payment was not taken, because this bot does not sell it: {event}"
    granted_button: str = "It was granted"
    retry_button: str = "Send again"
    abandon_button: str = "Refunded"
    delivered_button: str = "Has the link"
    sure: str = "Yes: {action}"
    back: str = "Back"
    decided: str = "{action}: decided by {owner}"
    stale: str = "This has been decided or has changed meanwhile. /find shows how it is now."
    not_stored: str = "The ledger cannot store the decision now. Please press again later."
    strangers: str = "Only the owner of this bot can decide that."
    nothing_held: str = "Nothing is waiting for a decision."
    nothing_undelivered: str = "Every link has been delivered."
    nothing_found: str = "Nothing found. Use /find with a payment's ref or a user's id."
    more: str = "And {count} more."
    sales: str = "Granted: {day} in a day, {week} in a week, {month} in 30 days\n{plans}\n{waiting}"
    sold: str = "plan {plan_id}: {count} in 30 days"
    waiting: str = "Waiting: {planned} to be granted, {undelivered} to be delivered, {undecided} to be decided"

    def __attrs_post_init__(self) -> None:
        for field in fields(Texts):
            problem = _problem_of(getattr(self, field.name), _names_in(str(field.default)))
            if problem is not None:
                msg = f"the text {field.name} {problem}"
                raise UsageError(msg)


def _names_in(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _problem_of(text: object, allowed: set[str]) -> str | None:
    if not isinstance(text, str) or not text:
        return f"must be a non-empty str, not {text!r:.80}"
    try:
        names = _names_in(text)
    except ValueError as error:
        return f"is no template: {error}"
    if names <= allowed:
        return None
    return f"uses {', '.join(sorted(names - allowed))!r}, and may use {', '.join(sorted(allowed)) or 'no names'}"


ENGLISH: Final = Texts()


class Languages:
    """The texts by language: the exact code of a user (`pt-br`), else its first part, else `en`, else English."""

    def __init__(self, texts: Mapping[str, Texts] | None) -> None:
        given = {} if texts is None else dict(texts)
        for code, value in given.items():
            if not isinstance(code, str) or not isinstance(value, Texts):
                msg = f'texts is a mapping such as {{"de": Texts(...)}}, not one with {code!r:.40}: {value!r:.40}'
                raise UsageError(msg)
        self._texts = {code.lower(): value for code, value in given.items()}

    def __getitem__(self, code: str | None) -> Texts:
        wanted = (code or "en").lower()
        for name in (wanted, wanted.partition("-")[0], "en"):
            if name in self._texts:
                return self._texts[name]
        return ENGLISH
