"""What lives between `open()` and `aclose()`, as a context manager."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Lived(ABC):
    """Entering it is `open()`, leaving it is `aclose()`; either pair may be used, from one task or from two."""

    def __repr__(self) -> str:
        try:
            return self._shown()
        except AttributeError:  # what shows the locals of a constructor that failed must not fail itself
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
        """Begin to live."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go."""
