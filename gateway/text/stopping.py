"""Stop strings in a growing text. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Checked(NamedTuple):
    """What may be shown.

    Attributes:
        text: Certain to stand before any stop string, unless that is shown too.
        stop: The stop string that was found; nothing comes after it.
    """

    text: str
    stop: str | None = None


class StopStringMatcher:
    """Cuts a text before the first stop string in it, wherever the text is split into pieces.

    Text that may be the beginning of a stop string is held back until that is known. The first stop string is the
    one that is complete first, as with a text that is written letter by letter; of those that end at the same letter,
    the longest.
    """

    def __init__(self, stops: Sequence[str], *, shows_stop: bool = False) -> None:
        """Start with no text.

        Args:
            stops: Not empty, each of them.
            shows_stop: Whether the text ends with the stop string instead of before it.
        """
        self._shows_stop = shows_stop
        self._stops = tuple(stops)
        self._max_held = max((len(stop) for stop in stops), default=1) - 1
        self._held = ""

    def push(self, text: str) -> Checked:
        """Add a piece."""
        if not self._stops:
            return Checked(text)
        text = self._held + text
        matches = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self._held = ""
            end, start, stop = min(matches)
            return Checked(text[: end if self._shows_stop else start], stop)
        certain = len(text) - self._num_possible(text)
        self._held = text[certain:]
        return Checked(text[:certain])

    def flush(self) -> str:
        """End the text: what was held back was no stop string."""
        text, self._held = self._held, ""
        return text

    def _num_possible(self, text: str) -> int:
        """Letters at the end of the text that may begin a stop string."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
