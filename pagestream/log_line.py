"""The lines that services write to stderr, read back: what `shared.observability` formats, and what Python prints."""

import logging
import re
from dataclasses import dataclass

LAST_WORD_PREFIX = "pagestream: error: "
"""Begins the line with which a command says why it gives up."""

_FORMAT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<level>[A-Z]+) +\S+ +(?P<message>.*)")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a service's log.

    Attributes:
        level: As `logging` numbers it.
        message: Without the time, the level and the service.
        is_last_word: Whether this is why the process ends.
    """

    level: int
    message: str
    is_last_word: bool = False

    @classmethod
    def parse(cls, text: str, *, previous: "LogLine | None") -> "LogLine":
        """Read a line. One that no logger wrote (of a traceback, say) has the level of the line before it."""
        if match := _FORMAT.fullmatch(text):
            return cls(logging.getLevelNamesMapping().get(match["level"], logging.INFO), match["message"])
        if text.startswith(LAST_WORD_PREFIX):
            return cls(logging.ERROR, text.removeprefix(LAST_WORD_PREFIX), is_last_word=True)
        return cls(previous.level if previous else logging.WARNING, text)
