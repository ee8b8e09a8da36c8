"""The options of the commands that grant."""

from typing import Final

import click

concurrency_option: Final = click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Maximum number of grants in flight.",
)
attempts_option: Final = click.option(
    "--attempts", type=click.IntRange(1), default=4, show_default=True, help="Maximum number of attempts per grant."
)
