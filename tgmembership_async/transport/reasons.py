"""Why no answer came, told in one short line that holds no key."""

from typing import Final

from tgmembership_async.protocol.envelope import printable
from tgmembership_async.protocol.wire import Account

_SHOWN: Final = 200


def reason_of(error: BaseException, account: Account) -> str:
    """Return the name of an HTTP library's error and what it says, without the key of `account`."""
    text = account.scrub(_told_by(error).encode(errors="replace")).decode(errors="replace")
    name = type(error).__name__
    return f"{name}: {printable(text, _SHOWN)}" if text else name


def _told_by(error: BaseException | None) -> str:
    """Return the first message on the way down to the cause: on trio the upper ones are empty."""
    text = ""
    while error is not None and not text:
        text, error = str(error), error.__cause__ or error.__context__
    return text
