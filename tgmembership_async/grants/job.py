"""An object that runs like a coroutine: awaited, as a task, or as a background task of a web framework."""

import asyncio
import inspect
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])


class Job(Coroutine[Any, Any, T_co]):
    """Work that begins when it is awaited, made a task, called with `await`, or entered; it warns if none happens.

    Subclasses define `_result`, and set `_unused` to a ResourceWarning's text at the end of their constructor and to
    None once they begin.
    """

    _unused: str | None = None
    _coroutine: Coroutine[Any, Any, T_co] | None = None

    async def _result(self) -> T_co:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._result().__await__()

    async def __call__(self) -> T_co:
        """Do the work, for callers of an async function: FastAPI's `BackgroundTasks.add_task(job)`."""
        return await self

    def send(self, value: Any) -> Any:
        """Continue as a coroutine does; `asyncio.create_task(job)` uses it."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception at the point at which it waits, as a coroutine does."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """End as a coroutine does; a job that has not begun does not begin any more."""
        self._begun().close()

    def _begun(self) -> Coroutine[Any, Any, T_co]:
        self._unused = None
        if self._coroutine is None:
            self._coroutine = self._result()
        return self._coroutine

    def __del__(self) -> None:
        if self._unused is not None:
            warnings.warn(self._unused, ResourceWarning, stacklevel=2, source=self)


def as_coroutine_function(function: F) -> F:
    """Mark a function that returns a Job as a coroutine function.

    FastAPI, Starlette and APScheduler would otherwise call it in a thread, and throw the Job away.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001 - as asgiref
    return function
