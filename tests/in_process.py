"""Run the command line in the process of the test."""

from click.testing import CliRunner, Result

from tgmembership_async.cli.root import command


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), input=stdin)
