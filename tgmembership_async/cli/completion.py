"""`tgmembership completion`: print a script that completes commands, options and their values in a shell."""

from typing import Final

import click
from click.shell_completion import get_completion_class

_EPILOG: Final = """
\b
Examples:
  tgmembership completion bash > ~/.local/share/bash-completion/completions/tgmembership
  tgmembership completion zsh > ~/.zfunc/_tgmembership     # ~/.zfunc must be in fpath before compinit
  tgmembership completion fish > ~/.config/fish/completions/tgmembership.fish

For the current shell only: eval "$(tgmembership completion bash)".
"""


@click.command("completion", epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash (4.4 or newer), zsh or fish."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the three are click's own
    click.echo(kind(context.find_root().command, {}, "tgmembership", "_TGMEMBERSHIP_COMPLETE").source())
