"""Rules by method, probability, count and seed: which of them strike this time. Pure."""

from collections.abc import Iterable
from random import Random
from typing import Generic, Protocol, TypeVar

from attrs import mutable


class Rule(Protocol):
    """What every rule has: its kind, and which occasions it strikes."""

    @property
    def kind(self) -> str:
        """Name what goes wrong; "latency" goes together with any other kind."""
        ...

    @property
    def method(self) -> str | None:
        """Name the only method that it strikes, in any case; None is all."""
        ...

    @property
    def probability(self) -> float:
        """Give the chance of each occasion, from 0 to 1."""
        ...

    @property
    def count(self) -> int | None:
        """Give how many it strikes at most; None is no limit."""
        ...

    @property
    def skip(self) -> int:
        """Give how many it spares first."""
        ...

    @property
    def seed(self) -> int | None:
        """Give a randomness of its own; None is that of the book."""
        ...


R = TypeVar("R", bound=Rule)


@mutable
class _Entry(Generic[R]):
    """A rule with its state: how many occasions it has seen, how many it has struck, and its own randomness."""

    rule: R
    random: Random
    seen: int = 0
    struck: int = 0

    def fires(self, method: str) -> bool:
        """Say whether it strikes; one draw for each occasion that matches, so that no other rule shifts it."""
        if self.rule.method is not None and self.rule.method.lower() != method.lower():
            return False
        self.seen += 1
        drawn = self.random.random() < self.rule.probability
        spent = self.rule.count is not None and self.struck >= self.rule.count
        return drawn and self.seen > self.rule.skip and not spent


class Rulebook(Generic[R]):
    """Rules in their order. Latencies add up; of all the others the first that fires decides."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._entries: list[_Entry[R]] = []

    @property
    def rules(self) -> tuple[R, ...]:
        """Return the rules as they were given."""
        return tuple(entry.rule for entry in self._entries)

    def add(self, rules: Iterable[R]) -> None:
        """Add rules behind those that stand."""
        for rule in rules:
            seed = f"{self._seed}/{len(self._entries)}" if rule.seed is None else rule.seed
            self._entries.append(_Entry(rule, Random(seed)))  # noqa: S311 - reproducible on purpose

    def clear(self) -> None:
        """Forget all rules."""
        self._entries.clear()

    def draw(self, method: str) -> tuple[R, ...]:
        """Return the rules that strike this occasion."""
        firing = [entry for entry in self._entries if entry.fires(method)]
        deciding = next((entry for entry in firing if entry.rule.kind != "latency"), None)
        striking = [entry for entry in firing if entry.rule.kind == "latency" or entry is deciding]
        for entry in striking:
            entry.struck += 1
        return tuple(entry.rule for entry in striking)
