"""Strings that are masked when printed, and a decorator that keeps arguments out of tracebacks."""

import hmac
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar, final

P = ParamSpec("P")
R = TypeVar("R")


@final
class Secret:
    """A string that is masked in reprs, logs and tracebacks and cannot be pickled; `reveal()` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the plain value, which is no longer masked."""
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
        msg = "a Secret cannot be pickled: send reveal() over a safe channel, or read it again where it is needed"
        raise TypeError(msg)


@final
class Target(bytes):
    """The request path with the API key, for the wire. Its repr, str and format are masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Target(b'***')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        msg = "a Target holds the API key and cannot be pickled"
        raise TypeError(msg)


def hides_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap `function` so that tracebacks of its exceptions have no frame with its arguments or locals.

    Tools that report tracebacks with locals, as Sentry does by default, would report a secret that was passed together
    with a wrong argument. Frames, cause and context are removed, so the message must be sufficient.
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
