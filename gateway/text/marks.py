"""Marks in a growing text: `<think>`, `<tool_call>` and the like. Pure."""

from typing import NamedTuple


class Found(NamedTuple):
    """A piece of text, cut at the first mark.

    Attributes:
        before: Certain to stand before any mark.
        mark: The mark that was found, if one was.
        after: What follows it, as far as it is here.
    """

    before: str
    mark: str | None = None
    after: str = ""


class MarkFinder:
    """Finds the first of some marks, wherever the text is split into pieces. Afterwards it looks for the next one.

    Text that may be the beginning of a mark is held back until that is known.
    """

    def __init__(self, *marks: str) -> None:
        self._marks = marks
        self._held = ""

    def push(self, text: str) -> Found:
        """Add a piece."""
        text, self._held = self._held + text, ""
        places = [(start, -len(mark), mark) for mark in self._marks if (start := text.find(mark)) >= 0]
        if places:
            start, _, mark = min(places)
            return Found(text[:start], mark, text[start + len(mark) :])
        certain = len(text) - self._num_possible(text)
        self._held = text[certain:]
        return Found(text[:certain])

    def flush(self) -> str:
        """End the text: what was held back was no mark."""
        text, self._held = self._held, ""
        return text

    def _num_possible(self, text: str) -> int:
        """Characters at the end of the text that may begin a mark."""
        longest = max(map(len, self._marks)) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(mark.startswith(text[-length:]) for mark in self._marks):
                return length
        return 0
