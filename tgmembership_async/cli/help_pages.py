"""Help pages that fit the terminal: lines of examples and lists are folded, at spaces only, where they are too long."""

import re
from functools import partial
from textwrap import wrap
from typing import Final

import click

_COMMAND: Final = re.compile(r" *(?:tgmembership|export) ")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_TERM: Final = re.compile(r" *\S+ {2,}")
_MARGIN: Final = 4
_wrap: Final = partial(wrap, break_long_words=False, break_on_hyphens=False)


class Formatter(click.HelpFormatter):
    """Folds the lines that click leaves as they are."""

    def write(self, string: str) -> None:
        """Write lines no longer than the terminal is wide; a folded command continues after a backslash."""
        super().write("\n".join(_folded(line, self.width) for line in string.split("\n")))


class PageContext(click.Context):
    """The context of a command whose help is written by `Formatter`."""

    formatter_class: type[click.HelpFormatter] = Formatter


def with_pages(command: click.Command) -> click.Command:
    """Have a command, and the commands of a group, write their help with `Formatter`."""
    command.context_class = PageContext
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        with_pages(one)
    return command


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
