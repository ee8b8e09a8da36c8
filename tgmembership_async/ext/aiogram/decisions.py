"""Questions to the owner: a message with the facts of a grant, and buttons for the possible decisions."""

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

from aiogram.filters.callback_data import CallbackData
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from tgmembership_async.ext.aiogram.texts import Texts
from tgmembership_async.grants.model import DecisionMade, Grant, GrantStatus

_KEY_LENGTH: Final = 16  # hex digits; Telegram takes 64 bytes on a button, and a ref may have 1,000 characters
_LONGEST_LINE: Final = 1_000  # characters; Telegram takes 4,096 in a message

Action = Literal["granted", "retry", "abandon", "delivered"]
Step = Literal["ask", "do", "back"]

ACTIONS: Final[Mapping[GrantStatus, tuple[Action, ...]]] = {
    GrantStatus.UNKNOWN: ("granted", "retry", "abandon"),
    GrantStatus.REFUSED: ("granted", "retry", "abandon"),
    GrantStatus.PLANNED: ("abandon",),
    GrantStatus.GRANTED: ("delivered",),
}
"""The decisions that the owner may make about a grant in each state."""


class Press(CallbackData, prefix="tgm-own"):
    """A press on a button: `seen` is the state of the grant when the button was sent, `key` identifies the ref."""

    step: Step
    action: Action
    seen: str
    key: str

    def is_about(self, grant: Grant) -> bool:
        """Tell whether the grant is still as the button shows it."""
        return self.seen == _seen(grant)


def key_of(ref: str) -> str:
    """Return a short key of a ref for the data of a button."""
    return hashlib.sha256(ref.encode()).hexdigest()[:_KEY_LENGTH]


def _seen(grant: Grant) -> str:
    return f"{grant.status}{grant.attempts}"


def name_of(action: Action, texts: Texts) -> str:
    """Return the text of an action's button."""
    names: dict[Action, str] = {
        "granted": texts.granted_button,
        "retry": texts.retry_button,
        "abandon": texts.abandon_button,
        "delivered": texts.delivered_button,
    }
    return names[action]


def buttons(grant: Grant, texts: Texts) -> InlineKeyboardMarkup | None:
    """Return a button for each action that the grant's state allows, or None."""
    actions = ACTIONS.get(grant.status, ())
    row = [_button(name_of(action, texts), "ask", action, grant) for action in actions]
    return InlineKeyboardMarkup(inline_keyboard=[row]) if row else None


def ask_again(grant: Grant, action: Action, texts: Texts) -> InlineKeyboardMarkup:
    """Return the buttons that ask once more."""
    sure = texts.sure.format(action=name_of(action, texts))
    return InlineKeyboardMarkup(
        inline_keyboard=[[_button(sure, "do", action, grant), _button(texts.back, "back", action, grant)]]
    )


def _button(text: str, step: Step, action: Action, grant: Grant) -> InlineKeyboardButton:
    press = Press(step=step, action=action, seen=_seen(grant), key=key_of(grant.ref))
    return InlineKeyboardButton(text=text, callback_data=press.pack())


def facts(grant: Grant, texts: Texts, made: list[DecisionMade] | None = None) -> str:
    """Return the facts of a grant for an owner, without token and link."""
    questions = {
        GrantStatus.UNKNOWN: texts.unknown,
        GrantStatus.REFUSED: texts.refused,
        GrantStatus.PLANNED: texts.planned,
        GrantStatus.GRANTED: texts.undelivered,
    }
    template = texts.facts if grant.note else texts.facts.replace(", note: {note}", "")  # other languages show "-"
    lines = [
        template.format(
            ref=_short(grant.ref),
            plan_id=grant.plan_id,
            user="-" if grant.member_id is None else grant.member_id,
            note=_short(grant.note) or "-",
            status=grant.status,
            since=f"{grant.updated_at:%Y-%m-%d %H:%M} UTC",
            attempts=grant.attempts,
        ),
        "" if grant.error is None else _short(str(grant.error)),
        *(f"{one.decided_at:%Y-%m-%d %H:%M}: {one.decision}, {_short(one.reason, 200)}" for one in (made or [])[-3:]),
        questions.get(grant.status, ""),
    ]
    return "\n".join(line for line in lines if line)


def _short(text: str, longest: int = _LONGEST_LINE) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
