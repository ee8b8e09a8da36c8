"""The plans for sale: those with a price in Stars, or in a currency for which there is a provider token."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from attrs import field, frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.ext.aiogram.texts import Texts
from tgmembership_async.protocol.endpoints import check_id
from tgmembership_async.values.models import Plan
from tgmembership_async.values.secret import Secret

STARS: Final = "XTR"
_WHOLE: Final = frozenset({STARS, "CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND"})
"""Currencies that Telegram counts in whole units; all others in hundredths (assumed, after Telegram's own list)."""
SUBSCRIPTION_PERIOD: Final = 2_592_000
"""Seconds between the payments of a subscription: 30 days, the only period that Telegram takes (documented)."""
_PERIODS: Final = frozenset({(1, 0), (0, 30)})  # months and days of a plan that fits it
_MOST_STARS: Final = 10_000  # for a subscription (documented by Telegram)
_TITLE: Final = 32  # characters of an invoice's title (documented by Telegram)
_DESCRIPTION: Final = 255  # and of its description


@frozen
class Offer:
    """A plan as it is sold: `amount` in the smallest units of the plan's currency."""

    plan: Plan
    amount: int
    provider_token: Secret = field(repr=False)

    @property
    def currency(self) -> str:
        """Return the currency's code, as Telegram writes it."""
        return self.plan.price.currency.upper()

    @property
    def title(self) -> str:
        """Return the invoice's title."""
        return self.plan.name.strip()[:_TITLE] or f"{self.plan.plan_id}"

    @property
    def is_subscription(self) -> bool:
        """Tell whether Telegram charges the customer again for each period."""
        fits = self.plan.duration.span in _PERIODS and self.amount <= _MOST_STARS
        return self.plan.recurring and self.currency == STARS and fits

    def description(self, texts: Texts) -> str:
        """Return the invoice's description."""
        return texts.description.format(duration=self.plan.duration.text)[:_DESCRIPTION]

    def label(self, texts: Texts) -> str:
        """Return the text of its button."""
        template = texts.stars if self.currency == STARS else texts.money
        price = {"amount": self.plan.price.amount, "currency": self.currency}
        return texts.plan.format(name=self.title, duration=self.plan.duration.text, price=template.format(**price))

    def costs(self, currency: str, amount: int) -> bool:
        """Tell whether the price is unchanged."""
        return (self.currency, self.amount) == (currency, amount)


class Assortment:
    """The plans that a shop sells: those of `plan_ids`, or all for which it can take payments."""

    def __init__(
        self, provider_tokens: Mapping[str, str | Secret] | None = None, plan_ids: Collection[int] | None = None
    ) -> None:
        self._tokens = {STARS: Secret("")} | {
            _currency(code): token if isinstance(token, Secret) else Secret(token)
            for code, token in (provider_tokens or {}).items()
        }
        self._plan_ids = None if plan_ids is None else frozenset(check_id("plan_ids", plan_id) for plan_id in plan_ids)

    def of(self, plans: Iterable[Plan]) -> dict[int, Offer]:
        """Return the offers by plan id, in the order of the plans."""
        offers = ((plan.plan_id, self._offer(plan)) for plan in plans)
        return {plan_id: offer for plan_id, offer in offers if offer is not None}

    def _offer(self, plan: Plan) -> Offer | None:
        currency = plan.price.currency.upper()
        token = self._tokens.get(currency)
        if token is None or not (self._plan_ids is None or plan.plan_id in self._plan_ids):
            return None
        amount = plan.price.amount * (1 if currency in _WHOLE else 100)
        return Offer(plan, int(amount), token) if amount > 0 and amount == int(amount) else None


def _currency(code: object) -> str:
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z]{3}", code) or code.upper() == STARS:
        msg = f'provider_tokens is a mapping such as {{"EUR": "..."}}; Stars need none, and this is {code!r:.40}'
        raise UsageError(msg)
    return code.upper()
