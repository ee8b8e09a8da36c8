"""The base class of objects that are opened and closed, as async context managers."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class AsyncResource(ABC):
    """An async context manager: `open()` on entry, `aclose()` on exit. Both may be called from different tasks."""

    def __repr__(self) -> str:
        try:
            return self._shown()
        except AttributeError:  # a traceback with locals may show an object whose constructor failed
            return f"<{type(self).__name__}, not complete>"

    def _shown(self) -> str:
        return object.__repr__(self)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def open(self) -> Self:
        """Acquire the resources, and return the object itself."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release the resources."""
