"""The protocol of an adapter to a payment provider."""

from typing import Protocol, runtime_checkable

from tgmembership_async.payments.model import PaymentEvent
from tgmembership_async.webhooks.headers import HeadersLike


@runtime_checkable
class PaymentAdapter(Protocol):
    """Reads the events of one payment provider. `PAYMENT_CHECKS` of `tgmembership_async.testing` check an adapter."""

    def read(self, headers: HeadersLike, body: bytes) -> PaymentEvent:
        """Return the meaning of a request with these headers and this raw body, without I/O.

        Raises NotAuthentic if the provider has not signed the request, and nothing else: an authentic request that
        cannot be understood is an Attention. The same request always has the same meaning.
        """
        ...
