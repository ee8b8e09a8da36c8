"""Parse large JSON in slices, because one call of the C scanner holds the GIL until it returns.

The C scanner parses each value that fits into a window of the text; a larger value is parsed part by part. Values and
errors are those of `json.loads`, except that a number of more than 4,300 characters stays a string, and that the
maximum nesting depth is smaller.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final

WINDOW: Final = 64 * 1024
_BLANK: Final = frozenset(" \t\n\r")
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_DIGITS: Final = 4_300
_ENDS: Final = {"{": "}", "[": "]"}
_REFUSED: Final = (ValueError, ArithmeticError, StopIteration)


def load(text: str, decoder: json.JSONDecoder, pause: Callable[[], object], window: int = WINDOW) -> Any:
    """Parse `text`, calling `pause` between slices. Raise ValueError or ArithmeticError if it is not JSON."""
    reader = _Reader(text, decoder, pause, window)
    value, at = reader.value(reader.skip(0))
    if reader.skip(at) != len(text):
        raise _broken(at)
    return value


class _Reader:
    """A parser with a window that moves forward over the text. Positions refer to the text."""

    __slots__ = ("_base", "_pause", "_piece", "_scan", "_size", "_text", "_tried")

    def __init__(self, text: str, decoder: json.JSONDecoder, pause: Callable[[], object], window: int) -> None:
        self._text = text
        self._scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined,unused-ignore]
        self._pause = pause
        self._size = window
        self._move_to(0)

    def _move_to(self, at: int) -> None:
        self._pause()
        self._base = at
        self._piece = self._text[at : at + self._size]
        self._tried = False

    def _in_window(self, at: int) -> int:
        """Return the position of `at` in the window, which is moved if less than half of it lies ahead."""
        if at - self._base > self._size // 2:
            self._move_to(at)
        return at - self._base

    def value(self, at: int) -> tuple[Any, int]:
        """Return the value that begins at `at`, and its end."""
        begin = self._in_window(at)
        try:
            value, end = self._scan(self._piece, begin)
        except _REFUSED:
            pass
        else:
            # At the end of the window the scanner would accept part of a number, as in "1e+".
            if end < len(self._piece) - 2 or self._base + len(self._piece) >= len(self._text):
                return value, self._base + end
        opening = self._text[at : at + 1]
        if opening == "[":
            return self._array(self.skip(at + 1))
        if opening == "{":
            return self._object(self.skip(at + 1))
        return self._scalar(at)

    def _scalar(self, at: int) -> tuple[Any, int]:
        number = _NUMBER.match(self._text, at)
        if number is not None and len(number[0]) > _DIGITS:
            return number[0], number.end()
        try:
            return self._scan(self._text, at)
        except StopIteration:
            raise _broken(at) from None

    def _array(self, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        if self._text[at : at + 1] == "]":
            return items, at + 1
        while True:
            at, ended = self._many(items, at)
            if ended:
                return items, at
            item, at = self.value(self.skip(at))
            items.append(item)
            at = self.skip(at)
            if self._is_last(at, "]"):
                return items, at + 1
            at = self.skip(at + 1)

    def _many(self, items: list[Any], at: int) -> tuple[int, bool]:
        """Parse as many items as the window holds in one call; return their end, and whether the array ends there.

        The text up to the last comma, put in brackets, is a valid array if the comma belongs to this array, and not
        valid otherwise.
        """
        begin = self._in_window(at)
        if self._tried:  # once per window, to avoid quadratic time
            return at, False
        self._tried = True
        last = _ENDS.get(self._text[at : at + 1], "")
        cut = self._piece.rfind(f"{last},", begin) + len(last)
        if cut <= begin:
            return at, False
        try:
            some, end = self._scan(f"[{self._piece[begin:cut]}]", 0)
        except _REFUSED:
            return at, False
        items += some
        ended = end < cut - begin + 2
        return (at + end - 1 if ended else self._base + cut + 1), ended

    def _object(self, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        if self._text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if self._text[at : at + 1] != '"':
                raise _broken(at)
            key, at = self._scan(self._text, at)
            at = self.skip(at)
            if self._text[at : at + 1] != ":":
                raise _broken(at)
            found[key], at = self.value(self.skip(at + 1))
            at = self.skip(at)
            if self._is_last(at, "}"):
                return found, at + 1
            at = self.skip(at + 1)

    def _is_last(self, at: int, closing: str) -> bool:
        after = self._text[at : at + 1]
        if after not in (",", closing):
            raise _broken(at)
        return after == closing

    def skip(self, at: int) -> int:
        """Return the end of the white space that begins at `at`."""
        while self._text[at : at + 1] in _BLANK:
            blanks = _BLANKS.match(self._text, at, at + self._size)
            at = blanks.end() if blanks else at
            if self._text[at : at + 1] in _BLANK:
                self._pause()
        return at


def _broken(at: int) -> ValueError:
    return ValueError(f"invalid JSON at position {at}")
