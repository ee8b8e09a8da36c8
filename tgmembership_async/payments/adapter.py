"""The protocol of an adapter to a payment provider, and what every adapter needs."""

from typing import Protocol, runtime_checkable

from tgmembership_async.errors import NotAuthentic
from tgmembership_async.payments.model import PaymentEvent
from tgmembership_async.webhooks.headers import HeadersLike, flat


@runtime_checkable
class PaymentAdapter(Protocol):
    """Reads the events of one payment provider. `PAYMENT_CHECKS` of `tgmembership_async.testing` check an adapter."""

    def read(self, headers: HeadersLike, body: bytes) -> PaymentEvent:
        """Return the meaning of a request with these headers and this raw body, without I/O.

        Raises NotAuthentic if the provider has not signed the request, and nothing else: an authentic request that
        cannot be understood is an Attention. The same request always has the same meaning.
        """
        ...


def signature_in(headers: HeadersLike, name: str) -> str:
    """Return the value of the header with the signature. Raises NotAuthentic unless there is exactly one.

    `headers` are a mapping or pairs, of str or bytes; names match in any case.
    """
    values = [value for _, value in flat(headers, only=(name.lower(),))]
    if len(values) != 1:
        msg = f"it does not have exactly one header {name}"
        raise NotAuthentic(msg)
    return values[0]
