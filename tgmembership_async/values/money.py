"""An amount and its currency, to the last digit."""

from decimal import Decimal

from attrs import field, frozen


def _exact(amount: Decimal | int | str) -> Decimal:
    if isinstance(amount, (bool, float)):
        msg = f"an amount of money is a Decimal, an int or a string of digits, never a {type(amount).__name__}"
        raise TypeError(msg)
    exact = Decimal(amount)
    if not exact.is_finite():
        msg = f"an amount of money is finite, not {exact}"
        raise ValueError(msg)
    return exact


@frozen
class Money:
    """`amount` as the service gave it, and `currency`: `""` where it gave none.

    Currency codes are open: Telegram Stars (`XTR`) and crypto symbols are not ISO 4217.
    """

    amount: Decimal = field(converter=_exact)
    currency: str = ""

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}".rstrip()
