"""The profiles: one table for each bot or project in `bots.toml`, in the user's configuration folder, with mode 0600.

    [shop]
    bot_id = 8047883872
    key_file = "/home/me/.config/tgmembership/shop.key"     # or: keyring = true
    ledger = "/srv/shop/grants.db"

A project of API v2 has `project_id` instead of `bot_id`, and its token in place of the key. A profile is used as a
whole: none of its settings is mixed with those of the environment, which may be another bot's.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from attrs import field, frozen
from platformdirs import user_config_path

from tgmembership_async.errors import UsageError
from tgmembership_async.extras import install
from tgmembership_async.protocol.structuring.objects import is_object
from tgmembership_async.settings import secret_in
from tgmembership_async.values.secret import Secret, hides_arguments

PREFIX: Final = "TGMEMBERSHIP_"
CHOSEN: Final = f"{PREFIX}BOT"
_BOT: Final = ("BOT_ID", "API_KEY", "BASE_URL", "GENERATION")
_PROJECT: Final = ("PROJECT_ID", "PROJECT_TOKEN", "PROJECT_BASE_URL")
_REPLACED: Final = (*_BOT, "API_KEY_FILE", *_PROJECT, "PROJECT_TOKEN_FILE", "LEDGER", "INBOX")
_SERVICE: Final = "tgmembership"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NO_KEYRING: Final = f"the keyring needs an extra: {install('keyring')}"
_IS_URL: Final = re.compile(r"[a-z]+://", re.IGNORECASE)
_PATHS: Final = frozenset({"key_file", "ledger", "inbox"})


@frozen
class Profile:
    """One bot or project: `key_file` is the path of the file with its key; without one the key is in the keyring."""

    name: str
    bot_id: int | None = None
    project_id: str | None = None
    key_file: str | None = None
    keyring: bool = False
    base_url: str | None = None
    generation: str | None = None
    ledger: str | None = field(default=None, repr=False)  # a URL may have a password
    inbox: str | None = field(default=None, repr=False)

    @property
    def key_variable(self) -> str:
        """Return the environment variable of the key."""
        return f"{PREFIX}{(_BOT if self.project_id is None else _PROJECT)[1]}"

    def variables(self) -> dict[str, str]:
        """Return the environment variables with the same settings, except for a key in the keyring."""
        names = _BOT if self.project_id is None else _PROJECT
        values = (self.project_id or self.bot_id, None, self.base_url, self.generation)
        found = {f"{PREFIX}{name}": value for name, value in zip(names, values, strict=False)}
        found |= {
            f"{self.key_variable}_FILE": self.key_file,
            f"{PREFIX}LEDGER": self.ledger,
            f"{PREFIX}INBOX": self.inbox,
        }
        return {name: str(value) for name, value in found.items() if value is not None}


_TYPES: Final[Mapping[str, type]] = {
    "bot_id": int,
    "project_id": str,
    "key_file": str,
    "keyring": bool,
    "base_url": str,
    "generation": str,
    "ledger": str,
    "inbox": str,
}


def file() -> Path:
    """Return the path of the file with the profiles, which may not exist."""
    return user_config_path("tgmembership", appauthor=False) / "bots.toml"


def profiles() -> dict[str, Profile]:
    """Return the profiles by name. Raises UsageError if others may read the file, or it has something unknown."""
    path = file()
    try:
        with path.open("rb") as opened:
            if os.name == "posix" and stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                msg = f"other users may read or change {path}: chmod 600, and check what it says"
                raise UsageError(msg)
            tables = tomllib.load(opened)
    except FileNotFoundError:
        return {}
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UsageError(msg) from None
    except ValueError as error:  # of TOML, with line and column, or of UTF-8
        msg = f"{path} is not TOML: {str(error).rpartition('(')[2].rstrip(')')}"
        raise UsageError(msg) from None
    return {name: _profile(name, table, path) for name, table in tables.items()}


def _profile(name: str, table: Any, path: Path) -> Profile:
    where = f"{path}, [{name:.80}]"
    if not _NAME.fullmatch(name) or not is_object(table):
        msg = f"{where}: a bot is a table with a name of letters, digits, '-' and '_'"
        raise UsageError(msg)
    settings = dict(table)
    for key, value in settings.items():
        if type(value) is not _TYPES.get(key):
            msg = f"{where}: {key:.80} is unknown, or not of its type; known are {', '.join(_TYPES)}"
            raise UsageError(msg)
    if ("bot_id" in settings) == ("project_id" in settings) or ("key_file" in settings) == settings.get(
        "keyring", False
    ):
        msg = f"{where}: it needs either bot_id or project_id, and either key_file or keyring = true"
        raise UsageError(msg)
    if {"project_id", "generation"} <= settings.keys():
        msg = f"{where}: a project has no generation, which is the API of a bot"
        raise UsageError(msg)
    for key in _PATHS & settings.keys():
        if not _IS_URL.match(settings[key]):
            path = Path(settings[key]).expanduser()
            if not path.is_absolute():
                msg = f"{where}: {key} must be an absolute path, for it is used from any folder"
                raise UsageError(msg)
            settings[key] = str(path)
    return Profile(name, **settings)


def profile(name: str) -> Profile:
    """Return the profile of a name. Raises UsageError if there is none."""
    found = profiles()
    if name not in found:
        msg = f"there is no bot {name!r:.80}; there are: {', '.join(found) or 'none'}; `tgmembership bots add` adds one"
        raise UsageError(msg)
    return found[name]


def choose(name: str, *, by_variable: bool) -> Profile:
    """Put a profile into the environment, instead of all that it says about bots and projects, and return it.

    Raises UsageError if the profile is chosen by a variable, and another variable says that it is another bot.
    """
    found = profile(name)
    other = os.environ.get(f"{PREFIX}BOT_ID")
    if by_variable and other and other.strip() != str(found.bot_id):
        msg = f"{CHOSEN} is {name}, and {PREFIX}BOT_ID another bot: unset one of them, or use --bot"
        raise UsageError(msg)
    for variable in _REPLACED:
        os.environ.pop(f"{PREFIX}{variable}", None)
    os.environ.update({CHOSEN: name, **found.variables()})
    return found


def fetch_key() -> None:
    """Put the key of the chosen profile into the environment, if it is in the keyring, which may ask to be unlocked."""
    name = os.environ.get(CHOSEN)
    if name and (found := profile(name)).keyring and not os.environ.get(found.key_variable):
        os.environ[found.key_variable] = key_of(found).reveal()


def key_of(found: Profile) -> Secret:
    """Return the key of a profile. Raises UsageError if it is not where the profile says."""
    if found.key_file is not None:
        return secret_in(Path(found.key_file), f"the key of {found.name}, {found.key_file},")
    key = _in_keyring(lambda keyring: keyring.get_password(_SERVICE, found.name))
    if not key:
        msg = f"the keyring has no key of {found.name}: remove this bot, and add it again"
        raise UsageError(msg)
    return Secret(key)


def check_new(new: Profile) -> dict[str, Any]:
    """Return the table of a profile that can be added. Raises UsageError for one that cannot, or that is there."""
    if not _NAME.fullmatch(new.name):
        msg = "a bot's name has up to 64 letters, digits, '-' and '_'"
        raise UsageError(msg)
    if new.name in profiles():
        msg = f"there is a bot {new.name} already: tgmembership bots remove {new.name}"
        raise UsageError(msg)
    table = {name: value for name in _TYPES if (value := getattr(new, name)) not in (None, False)}
    _profile(new.name, table, file())
    return table


@hides_arguments
def add(new: Profile, key: Secret | None) -> Path:
    """Add a profile and store its key, if one is given, where the profile says. Return the path of the file."""
    path, table = file(), check_new(new)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if key is not None and new.key_file is None:
            value = key.reveal()
            _in_keyring(lambda keyring: keyring.set_password(_SERVICE, new.name, value))
        elif key is not None:
            _write(Path(str(new.key_file)), f"{key.reveal()}\n")
        _edit(path, lambda document: document.__setitem__(new.name, table))
    except OSError as error:
        msg = f"{path.parent} cannot be written: {error.strerror}"
        raise UsageError(msg) from None
    return path


def own_key_file(name: str) -> Path:
    """Return the file in which the key of a bot is stored, unless it is elsewhere already."""
    return file().with_name(f"{name}.key")


def remove(name: str) -> Profile:
    """Remove a profile and its key, if `add` stored it; a `key_file` of your own and the ledger stay."""
    found, path = profile(name), file()
    try:
        _edit(path, lambda document: document.__delitem__(name))
        if found.key_file == str(own_key_file(name)):
            own_key_file(name).unlink(missing_ok=True)
    except OSError as error:
        msg = f"{path.parent} cannot be written: {error.strerror}"
        raise UsageError(msg) from None
    if found.keyring:
        _in_keyring(lambda keyring: keyring.get_password(_SERVICE, name) and keyring.delete_password(_SERVICE, name))
    return found


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    import tomlkit  # noqa: PLC0415 - only to write, with all comments kept

    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    change(document)
    _write(path, tomlkit.dumps(document))


def _write(path: Path, text: str) -> None:
    """Replace a file by a new one that only this user may read."""
    path = Path(os.path.realpath(path))
    with NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as written:  # its mode is 0600
        unfinished = Path(written.name)
        try:
            written.write(text)
            written.close()  # Windows replaces no file by an open one
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _in_keyring(act: Callable[[Any], Any]) -> Any:
    try:
        import keyring  # noqa: PLC0415 - an extra
        from keyring.errors import KeyringError  # noqa: PLC0415 - likewise
    except ModuleNotFoundError:
        raise UsageError(_NO_KEYRING) from None
    try:
        return act(keyring)
    except (KeyringError, RuntimeError) as error:  # it is locked, or there is none
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    msg = f"the keyring does not answer: {why}"
    raise UsageError(msg)
