"""The options of the commands that grant."""

from collections.abc import Callable
from typing import Any, Final

import click

attempts_option: Final = click.option(
    "--attempts", type=click.IntRange(1), default=4, show_default=True, help="Maximum number of attempts per grant."
)


def concurrency_option(what: str) -> Callable[[Any], Any]:
    """Return the option for the maximum number of `what` in flight."""
    help_text = f"Maximum number of {what} in flight."
    return click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help=help_text)
