"""The registered handlers, and dispatching an event to them."""

import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

from attrs import frozen

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.envelope import printable
from tgmembership_async.user_calls import failure_of
from tgmembership_async.webhooks.events import Event

_logger: Final = logging.getLogger("tgmembership_async.webhooks")

E = TypeVar("E", bound=Event)
Handler = Callable[[E], Awaitable[object]]


@frozen
class Subscription:
    """A handler and its events: the name of an event, a class of events, or None for events without another handler.

    `label` identifies the handler, also in the inbox, so it must not change with a restart.
    """

    label: str
    wants: str | type[Event] | None
    handler: Handler[Any]

    def takes(self, event: Event) -> bool:
        """Tell whether the handler is registered for this event."""
        if self.wants is None:
            return False
        return event.name == self.wants if isinstance(self.wants, str) else isinstance(event, self.wants)


@frozen
class HandlingResult:
    """The result of one attempt: the labels of the handlers that are done, and one problem for each that failed."""

    done: frozenset[str]
    problems: tuple[str, ...] = ()


class Handlers:
    """The handlers of one Receiver."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._labels: Counter[str] = Counter()
        self._missed: set[str] = set()

    def add(self, wants: str | type[Event] | None, handler: Handler[Any]) -> None:
        """Add a handler. Raises UsageError unless it is an async function for an event name, an event class or None."""
        kind: object = wants
        named = isinstance(kind, str) and kind.strip()
        if kind is not None and not named and not (isinstance(kind, type) and issubclass(kind, Event)):
            msg = f"a handler is for the name of an event or a class of events, not for {kind!r:.80}"
            raise UsageError(msg)
        if not _is_async(handler):
            msg = f"a handler is an async function of one argument, the event; {handler!r:.80} is not"
            raise UsageError(msg)
        self._subscriptions.append(Subscription(self._label(handler), wants, handler))

    def _label(self, handler: Handler[Any]) -> str:
        module, name = (getattr(handler, key, "") for key in ("__module__", "__qualname__"))
        label = f"{module}.{name or type(handler).__qualname__}"
        self._labels[label] += 1
        return label if self._labels[label] == 1 else f"{label}#{self._labels[label]}"

    def of(self, event: Event) -> list[Subscription]:
        """Return the subscriptions for an event, in the order in which they were added."""
        takers = [one for one in self._subscriptions if one.takes(event)]
        return takers or [one for one in self._subscriptions if one.wants is None]

    async def dispatch(self, event: Event, *, timeout: float, done: Collection[str] = ()) -> HandlingResult:  # noqa: ASYNC109 - of each
        """Run the handlers of an event, except those in `done`, each for at most `timeout` seconds.

        A handler that fails does not prevent the others from running.
        """
        takers = self.of(event)
        finished, problems = set(done), list[str]()
        if not takers:
            self._report_missed(event)
            problems += [f"no handler is registered for {type(event).__name__}"] if event.needs_handler else []
        for one in takers:
            if one.label in finished:
                continue
            error = await failure_of(one.handler, event, timeout)
            if error is None:
                finished.add(one.label)
                continue
            name = printable(event.name)
            _logger.error("%s failed on %s, attempt %d", one.label, name, event.attempt, exc_info=error)
            problems.append(f"{one.label}: {type(error).__name__}")
        return HandlingResult(frozenset(finished), tuple(problems))

    def _report_missed(self, event: Event) -> None:
        if event.name not in self._missed:
            self._missed.add(event.name)
            _logger.warning(
                "no handler is registered for the event %s: add one, or use @receiver.on_unknown", printable(event.name)
            )


def _is_async(handler: object) -> bool:
    called = handler if inspect.isroutine(handler) or isinstance(handler, type) else type(handler).__call__
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)
