"""The PaymentReceiver: the endpoint for a provider's webhook, which records an event before it answers."""

import logging
from typing import TYPE_CHECKING, Final, Self

from anyio import move_on_after

from tgmembership_async.errors import NotAuthentic, TGMembershipError, UsageError
from tgmembership_async.fulfillment import Fulfillment
from tgmembership_async.lifecycle import AsyncResource
from tgmembership_async.payments.adapter import PaymentAdapter
from tgmembership_async.payments.model import PaymentEvent
from tgmembership_async.payments.recording import Ask, record
from tgmembership_async.settings import positive_int, seconds
from tgmembership_async.webhooks import answers
from tgmembership_async.webhooks.answers import Answer
from tgmembership_async.webhooks.asgi import ASGIReceiver
from tgmembership_async.webhooks.encodings import coding_of, decoded
from tgmembership_async.webhooks.headers import HeadersLike
from tgmembership_async.webhooks.refusals import RefusalLog

if TYPE_CHECKING:
    from aiohttp import web

_NOT_AUTHENTIC: Final = Answer(400, b"not authentic\n")
_MAX_BODY: Final = 1_048_576
_logger: Final = logging.getLogger("tgmembership_async.payments")


class PaymentReceiver(AsyncResource):
    """Receives the webhook of a payment provider: `receiver.asgi` is the endpoint for any ASGI server or framework.

    An event is verified and read by `adapter`, recorded by `fulfillment`, and only then answered. What only a person
    can judge is passed to `attention`, an async function of the Attention; it is called again if it raises.

    The responses: 200 for what is recorded or needs nothing; 400 for a request that the provider has not signed; 413
    and 408 for a body above `max_body` bytes, or read for longer than `body_timeout` seconds; 405 for another verb than
    POST; 503 if the event is not recorded within `deadline` seconds, the ledger cannot write, `attention` fails, or the
    Fulfillment is not open. Providers repeat an event that was not answered with 2xx; repeats are harmless.

    Open the Fulfillment before, or let a server run `asgi` as the whole application: that opens and closes it. Raises
    UsageError for a wrong argument.
    """

    def __init__(
        self,
        adapter: PaymentAdapter,
        fulfillment: Fulfillment,
        *,
        attention: Ask,
        deadline: float = 15.0,
        max_body: int = _MAX_BODY,
        body_timeout: float = 10.0,
    ) -> None:
        if not isinstance(adapter, PaymentAdapter) or not isinstance(fulfillment, Fulfillment):
            msg = (
                "a PaymentReceiver takes an adapter and a Fulfillment: PaymentReceiver(StripeAdapter(...), fulfillment)"
            )
            raise UsageError(msg)
        if not callable(attention):
            msg = "attention must be an async function of an Attention"
            raise UsageError(msg)
        self.max_body: int = positive_int(max_body, "max_body")
        self.body_timeout: float = seconds("body_timeout", body_timeout)
        self.asgi: ASGIReceiver = ASGIReceiver(self)
        self._adapter = adapter
        self._fulfillment = fulfillment
        self._attention = attention
        self._deadline = seconds("deadline", deadline)
        self._refusals = RefusalLog()
        self._opened_fulfillment = False

    def _shown(self) -> str:
        return f"<PaymentReceiver with {self._adapter!r}>"

    async def handle(self, headers: HeadersLike, body: bytes) -> Answer:
        """Return the response to a POST with these headers and this raw body, for use with any framework.

        A body in gzip is decoded, up to `max_body` bytes, as a Receiver does.
        """
        if not self._fulfillment.is_open:
            return answers.NOT_READY
        content = decoded(body, coding_of(headers), self.max_body)
        if isinstance(content, Answer):
            return content
        try:
            event = self._adapter.read(headers, content)
        except NotAuthentic as error:
            self._refusals.note(str(error))
            return _NOT_AUTHENTIC
        with move_on_after(self._deadline):
            return await self._record(event)
        _logger.warning("an event was not recorded within %g s, and the provider has to repeat it", self._deadline)
        return answers.NOT_STORED

    async def _record(self, event: PaymentEvent) -> Answer:
        try:
            await record(event, self._fulfillment, self._attention)
        except TGMembershipError as error:
            _logger.warning("an event could not be recorded, and the provider has to repeat it: %s", error)
        except Exception as error:  # noqa: BLE001 - of the user's attention; its text may hold what is secret
            _logger.warning("attention raised %s, and the provider has to repeat the event", type(error).__name__)
        else:
            return answers.OK
        return answers.NOT_STORED

    def before_body(self, verb: str, length: str | None = None) -> Answer | None:
        """Return the response that depends only on the verb and the Content-Length, or None to read the body."""
        if verb != "POST":
            return answers.not_allowed("POST")
        if not self._fulfillment.is_open:
            return answers.NOT_READY
        return answers.TOO_LARGE if answers.is_too_large(length, self.max_body) else None

    async def aiohttp_handler(self, request: "web.Request") -> "web.Response":
        """Handle a request of aiohttp's server: `router.add_route("*", "/stripe", receiver.aiohttp_handler)`."""
        from tgmembership_async.webhooks.aiohttp import respond  # noqa: PLC0415 - aiohttp is loaded on use

        return await respond(self, request)

    async def open(self) -> Self:
        """Open the Fulfillment unless it is open."""
        if not self._fulfillment.is_open:
            await self._fulfillment.open()
            self._opened_fulfillment = True
        return self

    async def aclose(self) -> None:
        """Close the Fulfillment if `open` has opened it."""
        if self._opened_fulfillment:
            self._opened_fulfillment = False
            await self._fulfillment.aclose()
