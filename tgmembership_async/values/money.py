"""An exact amount of money with its currency."""

from decimal import Decimal

from attrs import field, frozen


def _exact(amount: Decimal | int | str) -> Decimal:
    if isinstance(amount, (bool, float)):
        msg = f"an amount of money must be a Decimal, an int or a decimal string, not a {type(amount).__name__}"
        raise TypeError(msg)
    exact = Decimal(amount)
    if not exact.is_finite():
        msg = f"an amount of money must be finite, not {exact}"
        raise ValueError(msg)
    return exact


@frozen
class Money:
    """An exact `amount`, and its `currency`: `""` if the service gave none.

    Any currency code is accepted: Telegram Stars (`XTR`) and crypto symbols are not in ISO 4217.
    """

    amount: Decimal = field(converter=_exact)
    currency: str = ""

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}".rstrip()
