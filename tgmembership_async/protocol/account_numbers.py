"""Numbers of accounts, for stores and gates: a bot has its id, a project the first 62 bits of its id above all bots."""

from typing import Final
from uuid import UUID

_PROJECTS: Final = 1 << 62
_BITS_LEFT_OUT: Final = 66
_CHARACTERS_KEPT: Final = 17
"""Characters of a project's id that follow from its number alone."""


def number_of_project(project_id: str) -> int:
    """Return the `Account.number` of a project."""
    return _PROJECTS | UUID(project_id).int >> _BITS_LEFT_OUT


def owner_of(number: int) -> str:
    """Return the bot, or the project with the beginning of its id, that an `Account.number` belongs to."""
    if number < _PROJECTS:
        return f"bot {number}"
    return f"project {str(UUID(int=(number - _PROJECTS) << _BITS_LEFT_OUT))[:_CHARACTERS_KEPT]}…"
