"""`tgmembership webhook`: set or delete the webhook, print its events, verify and sign deliveries."""

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final, TypeVar, cast

import anyio
import click

from tgmembership_async.cli.credentials import client, project_id, session
from tgmembership_async.cli.exit_codes import Exit
from tgmembership_async.cli.help_pages import example
from tgmembership_async.cli.output import Format, format_option, note, write_one
from tgmembership_async.cli.webhook.verifier import AnyVerifier
from tgmembership_async.cli.webhook.view import fields_of
from tgmembership_async.errors import UsageError, WebhookError
from tgmembership_async.protocol.endpoints import check_local_url
from tgmembership_async.protocol.structuring.objects import is_array, is_object
from tgmembership_async.settings import secret_in
from tgmembership_async.values.models import Webhook
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import sign
from tgmembership_async.webhooks.events import read_event

F = TypeVar("F", bound=Callable[..., Any])
_ENVIRONMENT: Final = "TGMEMBERSHIP_WEBHOOK_SECRET"
_ANY_AGE: Final = 1e12
_PAIR: Final = 2
_EPILOG: Final = """
\b
Examples:
  tgmembership webhook listen --port 8080 --secret-file webhook.secret
  tgmembership webhook set https://shop.example/tgmembership --secret-file webhook.secret
  tgmembership webhook verify --secret-file webhook.secret --headers headers.txt body.json
  tgmembership webhook sign --secret-file webhook.secret body.json > headers.txt
  curl -H @headers.txt --data-binary @body.json http://127.0.0.1:8080/

The webhook secret is read from --secret-file or TGMEMBERSHIP_WEBHOOK_SECRET, and is never printed.
"""


@click.group("webhook", epilog=_EPILOG)
def command() -> None:
    """Set or delete the bot's webhook, print its events, verify and sign deliveries."""
    logging.getLogger("tgmembership_async").addHandler(logging.NullHandler())  # the command prints the same itself


def _secret_file(*, exists: bool) -> Callable[[F], F]:
    return click.option(
        *(["--secret-file"] if exists else ["--secret-file", "--save-secret"]),
        type=click.Path(exists=exists, dir_okay=False, path_type=Path),
        help="File with the webhook secret." if exists else "New file for the webhook secret (mode 0600).",
    )


@command.command("set", epilog=example("webhook set https://shop.example/tgmembership --secret-file webhook.secret"))
@click.argument("url")
@_secret_file(exists=False)
@click.option("--force", is_flag=True, help="Discard the secret of the reply without asking.")
@format_option
def set_(*, url: str, secret_file: Path | None, force: bool, form: Format) -> None:
    """Set the bot's webhook to URL, in place of any other; with --project ID, add one to the project.

    The service accepts URL only if URL answers a probe with 200, and sends the probe before there is a secret. Let your
    Receiver answer probes, or use `listen`. If the reply contains the secret, it is stored in --secret-file. Without
    that option, or --force, the command asks first, because the secret would be lost.
    """
    check_local_url("url", url)
    if secret_file is None and not force:
        _confirm_lost_secret()
    with nullcontext() if secret_file is None else _new_file(secret_file) as file:
        webhook = anyio.run(_set, url)
        if file is not None and webhook.secret is not None:
            file.write(f"{webhook.secret.reveal()}\n")
    kept = webhook.secret is not None and secret_file is not None
    if webhook.secret is None:
        note("The reply contained no secret. Look for it in your chat with the bot.")
    elif not kept:
        note("The reply contained a secret, which is not printed. To store it, run this again with --secret-file FILE.")
    write_one(form, {"url": webhook.url, "secret_file": str(secret_file) if kept else None})


def _confirm_lost_secret() -> None:
    why = "the reply may be the only place that shows the webhook secret, which is never printed"
    if not _is_interactive():
        msg = f"{why}: use --secret-file FILE to keep it, or --force to discard it"
        raise UsageError(msg)
    click.confirm(f"{why.capitalize()}. Set the webhook and discard the secret?", abort=True, err=True)


def _is_interactive() -> bool:
    return sys.stdin.isatty()


async def _set(url: str) -> Webhook:
    async with client() as tg:
        return await tg.set_webhook(url)


@contextmanager
def _new_file(path: Path) -> Generator[IO[str]]:
    """Open a new private file, before the service makes a secret that could not be stored; an empty one is removed."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        msg = f"{path} already exists: name a new file, and accept both secrets during the change"
        raise UsageError(msg) from None
    except OSError as error:
        msg = f"{path} cannot be created: {error.strerror}"
        raise UsageError(msg) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    finally:
        if not path.stat().st_size:
            path.unlink()


@command.command("delete", epilog=example("webhook delete"))
def delete() -> None:
    """Delete the bot's webhook."""
    if project_id() is not None:
        msg = "how to delete a project's webhook is not documented: look in the project's dashboard"
        raise UsageError(msg)
    anyio.run(_delete)
    note("The bot's webhook is deleted.")


async def _delete() -> None:
    async with session() as tg:
        await tg.delete_webhook()


@command.command("listen", epilog=example("webhook listen --port 8080 --secret-file webhook.secret"))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Port to listen on."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--set",
    "url",
    metavar="URL",
    help="Set the webhook to URL, which must lead to this port, and use the secret of the reply.",
)
@_secret_file(exists=True)
def listen(*, port: int, host: str, url: str | None, secret_file: Path | None) -> None:
    """Receive deliveries of a bot or a project and print each event as a line of JSON.

    The headers of signature and nonce, and the reason for each refused request, go to stderr. GET, HEAD and requests
    with an empty body are answered with 200, so that the service accepts the URL. Nothing is stored. Ctrl-C ends it.
    """
    from tgmembership_async.cli.webhook.listen import listen_until_interrupted  # noqa: PLC0415 - imports a web server

    asks = url is not None and secret_file is None
    secret = None if asks else secret_of(secret_file, or_else="--set URL to get a new one")
    listen_until_interrupted(host, port, secret, url)


@command.command(
    "verify", epilog=example("webhook verify --secret-file webhook.secret --headers headers.txt body.json")
)
@click.argument("body", type=click.File("rb"))
@click.option(
    "--headers",
    "headers",
    type=click.File("rb"),
    required=True,
    help="File with the headers: lines of `Name: value`, or JSON.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(0, min_open=True),
    help="Maximum age of the signature in seconds. [default: no limit]",
)
@_secret_file(exists=True)
@format_option
def verify(
    *, body: IO[bytes], headers: IO[bytes], max_age: float | None, secret_file: Path | None, form: Format
) -> None:
    """Verify the signature of a delivery and print its event.

    A delivery of API v2 is verified with both readings of the secret, and the right one is printed.

    BODY is a file, or - for stdin. Exit code 1: the delivery is not authentic, or not an event.
    """
    verifier = AnyVerifier(secret_of(secret_file), tolerance=max_age or _ANY_AGE)
    try:
        delivery = verifier.verify(headers_of(headers.read()), body.read())
        event = read_event(delivery, delivery.signed_at)
    except WebhookError as error:
        note(f"{type(error).__name__}: {error}")
        raise SystemExit(Exit.FAILED) from None
    note(verifier.advice)
    write_one(form, fields_of(event))


def headers_of(text: bytes) -> list[tuple[str, str]]:
    """Return the headers in a file: lines of `Name: value`, or JSON."""
    try:
        read: Any = json.loads(text)
    except ValueError:
        lines = text.decode("latin-1").splitlines()
        return [(name.strip(), value) for name, colon, value in (one.partition(":") for one in lines) if colon]
    if is_object(read):
        read = list(read.items())
    if not is_array(read) or not all(
        isinstance(pair, list | tuple) and len(cast("list[Any]", pair)) == _PAIR for pair in read
    ):
        msg = "headers in JSON must be an object, or an array of pairs of name and value"
        raise UsageError(msg)
    return [(str(name), str(value)) for name, value in read]


@command.command("sign", epilog=example("webhook sign --secret-file webhook.secret body.json > headers.txt"))
@click.argument("body", type=click.File("rb"))
@click.option("--nonce", help="Nonce. [default: a random one]")
@click.option("--timestamp", type=click.FloatRange(0), help="Time of the signature in Unix seconds. [default: now]")
@click.option(
    "--later-generation", is_flag=True, help="Sign as the service's later API generation does, without a nonce."
)
@_secret_file(exists=True)
def sign_(
    *, body: IO[bytes], nonce: str | None, timestamp: float | None, later_generation: bool, secret_file: Path | None
) -> None:
    """Sign a body and print the headers of its delivery.

    BODY is a file, or - for stdin. The output has the format of `curl -H @FILE`.
    """
    if later_generation and nonce is not None:
        msg = "--later-generation signs without a nonce: omit --nonce"
        raise UsageError(msg)
    drawn = None if later_generation else nonce or secrets.token_hex(8)
    at = time.time() if timestamp is None else timestamp
    for name, value in sign(secret_of(secret_file), body.read(), nonce=drawn, timestamp=at).items():
        sys.stdout.write(f"{name}: {value}\n")


def secret_of(path: Path | None, *, or_else: str = "") -> Secret:
    """Return the webhook secret in a file, or in the environment without one; `or_else` is what an error advises."""
    if path is not None:
        return secret_in(path, str(path))
    if not os.environ.get(_ENVIRONMENT):
        msg = f"no webhook secret: use --secret-file, or set {_ENVIRONMENT}{or_else and ', or use '}{or_else}"
        raise UsageError(msg)
    return Secret(os.environ[_ENVIRONMENT].strip())
