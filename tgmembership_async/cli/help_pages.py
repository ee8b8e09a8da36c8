"""Help pages that fit the terminal: long lines are wrapped at spaces, and no text is cut off."""

import re
from collections.abc import Mapping
from functools import partial
from textwrap import wrap
from typing import Final

import click

_COMMAND: Final = re.compile(r" *(?:tgmembership|export) ")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_TERM: Final = re.compile(r" *\S+ {2,}")
_MARGIN: Final = 4
_METAVARS: Final[Mapping[type, str]] = {
    type(click.INT): "N",
    click.IntRange: "N",
    click.FloatRange: "NUMBER",
}
_TYPE_NAMES: Final[Mapping[type, str]] = {click.IntRange: "integer", click.FloatRange: "number"}
_wrap: Final = partial(wrap, break_long_words=False, break_on_hyphens=False)


class Formatter(click.HelpFormatter):
    """Wrap the lines that click does not wrap."""

    def write(self, string: str) -> None:
        """Write lines no longer than the terminal is wide; a wrapped command continues after a backslash."""
        super().write("\n".join(_folded(line, self.width) for line in string.split("\n")))


class PageContext(click.Context):
    """The context of a command whose help is written by `Formatter`."""

    formatter_class: type[click.HelpFormatter] = Formatter


def with_pages(command: click.Command) -> click.Command:
    """Prepare the help and the messages of a command and of its subcommands, and return the command.

    A list of commands shows the whole first paragraph of each, which click would cut off.
    """
    command.context_class = PageContext
    for option in command.params:
        # In messages: click would write "not a valid integer range".
        option.type.name = _TYPE_NAMES.get(type(option.type), option.type.name)
        if isinstance(option, click.Option):
            option.metavar = option.metavar or _METAVARS.get(type(option.type))
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        with_pages(one).short_help = " ".join((one.help or "").partition("\n\n")[0].split())
    return command


def example(arguments: str) -> str:
    """Return the epilog of a command with one example."""
    return f"\b\nExample:\n  tgmembership {arguments}"


def examples(*lines: str) -> str:
    """Return the epilog of a command with several examples."""
    return "\n".join(["\b", "Examples:", *(f"  tgmembership {line}" for line in lines)])


def _folded(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    if _COMMAND.match(line):
        margin = " " * (len(line) - len(line.lstrip()) + _MARGIN)
        whole = _QUOTED.sub(lambda text: text[0].replace(" ", "\0"), line)
        return " \\\n".join(_wrap(whole, width - 2, subsequent_indent=margin)).replace("\0", " ")
    term = _TERM.match(line)
    margin = " " * (term.end() if term else len(line) - len(line.lstrip()))
    return "\n".join(_wrap(line, width, subsequent_indent=margin))
