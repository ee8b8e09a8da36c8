"""Fault rules with method, probability, count and seed, and how those that fire are drawn. No I/O."""

from collections.abc import Iterable
from random import Random
from typing import Generic, Protocol, TypeVar

from attrs import mutable


class Rule(Protocol):
    """The fields that all fault rules have."""

    @property
    def kind(self) -> str:
        """The kind of fault. "latency" combines with any other kind."""
        ...

    @property
    def method(self) -> str | None:
        """The method that the rule matches, without regard to case, or None for every method."""
        ...

    @property
    def probability(self) -> float:
        """The probability that a match fires, from 0 to 1."""
        ...

    @property
    def count(self) -> int | None:
        """The maximum number of faults, or None for no limit."""
        ...

    @property
    def skip(self) -> int:
        """The number of matches at the beginning that do not fire."""
        ...

    @property
    def seed(self) -> int | None:
        """The seed of the rule, or None for one derived from the seed of the rulebook."""
        ...


R = TypeVar("R", bound=Rule)


@mutable
class _Entry(Generic[R]):
    """A rule with its state: how often it has matched and fired, and its random generator."""

    rule: R
    random: Random
    matched: int = 0
    fired: int = 0

    def fires(self, method: str) -> bool:
        """Tell whether the rule fires. Each match draws once, so that other rules do not change the sequence."""
        if self.rule.method is not None and self.rule.method.lower() != method.lower():
            return False
        self.matched += 1
        drawn = self.random.random() < self.rule.probability
        spent = self.rule.count is not None and self.fired >= self.rule.count
        return drawn and self.matched > self.rule.skip and not spent


class Rulebook(Generic[R]):
    """An ordered list of rules. Latencies add up; of the other rules only the first that fires takes effect."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._entries: list[_Entry[R]] = []

    @property
    def rules(self) -> tuple[R, ...]:
        """Return the rules in order."""
        return tuple(entry.rule for entry in self._entries)

    def add(self, rules: Iterable[R]) -> None:
        """Append rules."""
        for rule in rules:
            seed = f"{self._seed}/{len(self._entries)}" if rule.seed is None else rule.seed
            self._entries.append(_Entry(rule, Random(seed)))  # noqa: S311 - reproducible on purpose

    def clear(self) -> None:
        """Remove all rules."""
        self._entries.clear()

    def draw(self, method: str) -> tuple[R, ...]:
        """Return the rules that fire for one request or connection."""
        firing = [entry for entry in self._entries if entry.fires(method)]
        deciding = next((entry for entry in firing if entry.rule.kind != "latency"), None)
        chosen = [entry for entry in firing if entry.rule.kind == "latency" or entry is deciding]
        for entry in chosen:
            entry.fired += 1
        return tuple(entry.rule for entry in chosen)
