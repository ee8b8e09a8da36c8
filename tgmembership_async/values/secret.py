"""A string that does not show itself, and functions whose arguments do not show in tracebacks."""

import hmac
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar, final

P = ParamSpec("P")
R = TypeVar("R")


@final
class Secret:
    """Keep a value out of every repr, log line, traceback and pickle until `reveal()` is called."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; what happens to it then is up to the caller."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._encoded(), other._encoded())

    def _encoded(self) -> bytes:
        return self._value.encode(errors="surrogatepass")  # JSON may hold lone surrogates

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not pickled: pass reveal() on by a safe way, or read it again where it is needed"
        raise TypeError(msg)


@final
class Target(bytes):
    """The real request path, key included, as HTTP needs it; everything but its bytes is masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Target(b'***')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        msg = "a Target holds the API key and is not pickled"
        raise TypeError(msg)


def hides_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` so that no frame of what it raises has its arguments, or what it made of them.

    Whoever sends tracebacks with their locals, as Sentry does by default, would send a secret that was passed beside a
    wrong argument. The message has to say it all: frames, cause and context are taken away.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised again
            failure = error.with_traceback(None)
        del args, kwargs
        failure.__cause__ = failure.__context__ = None
        raise failure

    return call
