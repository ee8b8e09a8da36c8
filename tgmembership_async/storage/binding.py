"""The binding of a store: to one bot at one service or, on request, to all bots of one service."""

from collections.abc import Callable
from typing import Any

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.account_numbers import owner_of


@frozen
class Binding:
    """A bot at a service, which is the origin of its URL, or "" if a store does not know it.

    For a project, `bot_id` is the `Account.number` made of its id. It is None for a store that several bots share:
    there each ref is kept as `BOT_ID:REF`.
    """

    service: str
    bot_id: int | None

    def __str__(self) -> str:
        whose = "several bots" if self.bot_id is None else owner_of(self.bot_id)
        return f"{whose} at {self.service}" if self.service else whose


@frozen
class BindingTable:
    """Reads and writes the binding of a component, whose name comes after the connection; each database has one."""

    read: Callable[[Any, str], Binding | None]
    """Returns the binding, or None if there is none."""
    write: Callable[[Any, str, Binding], None]
    """Writes the binding unless there is one. Of two concurrent bots, one succeeds."""

    def bind(
        self, connection: Any, component: str, check: Callable[[Binding | None], Binding], *, record: bool
    ) -> Binding:
        """Return the binding that `check` returns for the one found; with `record`, write it if none was found.

        Raises what `check` raises.
        """
        found = self.read(connection, component)
        binding = check(found)
        if record and found is None:
            self.write(connection, component, binding)
            binding = check(self.read(connection, component))  # another bot may have been quicker
        return binding


def agreed(
    found: Binding | None, wanted: Binding, *, bot_id: int, is_empty: bool, where: object, advice: str
) -> Binding:
    """Return the binding that holds for `bot_id` in a store: the one found or, if there is none, the one wanted.

    Raises UsageError if the store belongs to another bot or service, or if several bots are wanted and the refs in
    the store name no bot.
    """
    asks = Binding(wanted.service, bot_id)
    if found is None:
        if wanted.bot_id is None and not is_empty:
            msg = f"{where} has rows whose refs name no bot, so several bots cannot share it: {advice}"
            raise UsageError(msg)
        return wanted
    if found.service != wanted.service or found.bot_id not in (None, bot_id):
        msg = f"{where} belongs to {found}, and this is {asks}, of which it knows nothing: {advice}"
        raise UsageError(msg)
    if found.bot_id is not None and wanted.bot_id is None:
        msg = f"{where} belongs to {found} alone, and its refs name no bot: {advice}"
        raise UsageError(msg)
    return found


def check_copy(found: Binding | None, source: Binding | None, *, is_empty: bool) -> None:
    """Raise UsageError if rows of a source's binding do not belong into a target with the binding `found`."""
    names_bots = found is not None and found.bot_id is None
    if source is None:
        fits = not names_bots
    else:
        fits = found == source or (found is None and (source.bot_id is not None or is_empty))
    if not fits:
        there, here = found or "rows of a bot that nobody has recorded", source or "a bot that nobody has recorded"
        msg = f"the target belongs to {there}, and the source to {here}: copy into a new ledger"
        raise UsageError(msg)
