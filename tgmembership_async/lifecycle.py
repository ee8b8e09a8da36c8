"""What lives between `open()` and `aclose()`, as a context manager."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Lived(ABC):
    """Entering it is `open()`, leaving it is `aclose()`; either pair may be used, from one task or from two."""

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
