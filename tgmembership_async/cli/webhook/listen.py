"""`tgmembership webhook listen`: run a Receiver that prints its events, on uvicorn."""

import asyncio
import os
from collections.abc import Iterable
from importlib.util import find_spec

import click

from tgmembership_async.cli.credentials import client
from tgmembership_async.cli.grant_lines import json_text
from tgmembership_async.cli.output import note
from tgmembership_async.cli.serving import bound, serve
from tgmembership_async.cli.webhook.verifier import AnyVerifier
from tgmembership_async.cli.webhook.view import fields_of
from tgmembership_async.errors import NotAuthentic, UsageError
from tgmembership_async.extras import install
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.values.secret import Secret
from tgmembership_async.webhooks import Answer, Event, Receiver, Verifier
from tgmembership_async.webhooks.headers import HeadersLike, flat


class Listener(Receiver):
    """A Receiver that prints events on stdout, and header names and reasons of refusals on stderr."""

    def __init__(self, secret: Secret | None) -> None:
        # Until the secret is known, deliveries are answered as with an empty file: 503, so that they are sent again.
        super().__init__(Verifier.from_file(os.devnull) if secret is None else AnyVerifier(secret), probes=True)
        self.on(Event)(_show)
        self._printed = ""

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Answer as a Receiver does, and print the reason for a refusal."""
        pairs = flat(headers)
        answer = await super().handle(pairs, body)
        if isinstance(self.verifier, AnyVerifier):
            if answer.status in (401, 503):
                note(f"Refused: {self._why(pairs, body)}. Headers: {_names(pairs)}")
            elif self.verifier.advice != self._printed:
                self._printed = self.verifier.advice
                note(self._printed)
        return answer

    def _why(self, pairs: list[tuple[str, str]], body: bytes) -> str:
        try:
            self.verifier.verify(pairs, body)
        except NotAuthentic as error:
            return str(error)
        return "authentic only at the second verification"


async def _show(event: Event) -> None:
    click.echo(json_text(fields_of(event)))


def _names(pairs: Iterable[tuple[str, str]]) -> str:
    return printable(", ".join(name for name, _ in pairs), 500)


def listen_until_interrupted(host: str, port: int, secret: Secret | None, url: str | None) -> None:
    """Run a Listener until Ctrl-C, and set the webhook to `url` if given."""
    if find_spec("uvicorn") is None:
        msg = f"listen needs uvicorn: {install('testing')}"
        raise UsageError(msg)
    listener = Listener(secret)
    with bound(host, port) as listening:

        async def started() -> None:
            address, port = listening.getsockname()[:2]
            note(f"Listening on http://{f'[{address}]' if ':' in address else address}:{port}/; Ctrl-C ends it.")
            if url is not None:
                await _set_webhook(listener, url)

        try:
            asyncio.run(serve(listener.asgi, listening, started))
        except KeyboardInterrupt:
            return


async def _set_webhook(listener: Listener, url: str) -> None:
    async with client() as tg:
        webhook = await tg.set_webhook(url)
    if webhook.secret is not None:
        listener.verifier = AnyVerifier(webhook.secret)
        note(f"The webhook is set to {url}, and its secret is known.")
    else:
        note(f"The webhook is set to {url}. The reply contained no secret: start again with --secret-file.")
