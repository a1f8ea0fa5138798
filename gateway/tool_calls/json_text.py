"""JSON while it is being written: where a value ends, and the call that an object stands for. Pure.

Models write JSON that may be wrong or never end. So nothing here validates: it finds ends, and lets through what it
does not understand.
"""

import json
import re
from enum import Enum, auto
from typing import Final, NamedTuple

_IN_STRING: Final = re.compile(r'["\\]')
_IN_CONTAINER: Final = re.compile(r'["{}\[\]]')
_AFTER_SCALAR: Final = re.compile(r"[\s,}\]]")
_SPACE: Final = re.compile(r"\s*")


class ValueScanner:
    """Follows one value to its end."""

    def __init__(self) -> None:
        self._kind = ""
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self.is_complete = False

    def push(self, text: str, start: int = 0) -> int:
        """How far the value goes in `text[start:]`, which begins with more of it: the place of its end."""
        if not self._kind and start < len(text):
            self._kind = text[start]
        if self._kind in {'"', "{", "["}:
            return self._push_closed(text, start)
        end = _AFTER_SCALAR.search(text, start)
        self.is_complete = end is not None
        return end.start() if end else len(text)

    def _push_closed(self, text: str, place: int) -> int:
        while place < len(text):
            if self._is_escaped:
                self._is_escaped = False
                place += 1
                continue
            found = (_IN_STRING if self._is_in_string else _IN_CONTAINER).search(text, place)
            if found is None:
                return len(text)
            place = found.end()
            self._turn(found[0])
            if not self._depth and not self._is_in_string:
                self.is_complete = True
                return place
        return place

    def _turn(self, character: str) -> None:
        match character:
            case "\\":
                self._is_escaped = True
            case '"':
                self._is_in_string = not self._is_in_string
            case "{" | "[":
                self._depth += 1
            case _:
                self._depth -= 1


class Scanned(NamedTuple):
    """What became certain of a call.

    Attributes:
        arguments: More of its arguments' text; some only after its name is known.
        rest: What follows the call.
    """

    arguments: str
    rest: str


class _Place(Enum):
    BEFORE = auto()
    MEMBER = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()


class CallScanner:
    """Reads one call that is written as an object with the members "name" and "arguments" (or "parameters").

    Attributes:
        name: Once it is known.
        is_done: The object has ended.
        is_broken: This is no such object; the rest is not looked at.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.is_done = False
        self.is_broken = False
        self._place = _Place.BEFORE
        self._key: str | None = None
        self._raw = ""
        self._value = ValueScanner()
        self._has_arguments = False
        self._unnamed = ""

    def push(self, text: str) -> Scanned:
        """Add a piece."""
        arguments, at = "", 0
        while at < len(text) and not (self.is_done or self.is_broken):
            if self._place is _Place.VALUE:
                more, at = self._read_value(text, at)
                arguments += more
            else:
                at = self._read_mark(text, at)
        if self.is_done and not self._has_arguments:
            arguments += "{}"
        self._unnamed += arguments
        if self.name is None:
            return Scanned("", text[at:])
        arguments, self._unnamed = self._unnamed, ""
        return Scanned(arguments, text[at:])

    def _read_mark(self, text: str, at: int) -> int:
        """Skip white space, and take the one character that stands between values."""
        at = _skip_space(text, at)
        if at == len(text):
            return at
        match self._place, text[at]:
            case _Place.BEFORE, "{":
                self._place = _Place.MEMBER
            case _Place.MEMBER, '"':
                self._begin_value(key=None)
                return at
            case ((_Place.MEMBER | _Place.COMMA), "}"):
                self.is_done, self.is_broken = self.name is not None, self.name is None
            case _Place.COLON, ":":
                self._place = _Place.VALUE
            case _Place.COMMA, ",":
                self._place = _Place.MEMBER
            case _:
                self.is_broken = True
                return at
        return at + 1

    def _begin_value(self, key: str | None) -> None:
        self._key, self._raw, self._value = key, "", ValueScanner()
        self._place = _Place.VALUE

    def _read_value(self, text: str, at: int) -> tuple[str, int]:
        """More arguments, if this value is them, and the place after what was read."""
        if not self._raw:
            at = _skip_space(text, at)
            if at == len(text):
                return "", at
        end = self._value.push(text, at)
        piece = text[at:end]
        is_streamed = self._key in _ARGUMENTS and (self._raw or piece)[:1] in {"{", "["}
        self._raw += piece[:1] if is_streamed else piece
        if is_streamed:
            self._has_arguments = True
        arguments = piece if is_streamed else ""
        if self._value.is_complete:
            arguments += self._end_value(is_streamed=is_streamed)
        return arguments, end

    def _end_value(self, *, is_streamed: bool) -> str:
        key, raw = self._key, self._raw
        if key is None:
            self._begin_value(key=_string(raw) or "")
            self._place = _Place.COLON
            return ""
        self._place = _Place.COMMA
        if key == "name":
            self.name = _string(raw)
            self.is_broken = self.name is None
        elif key in _ARGUMENTS and not is_streamed:
            self._has_arguments = True
            # Some models write the arguments' text as a string.
            return "{}" if raw == "null" else _string(raw) or raw
        return ""


_ARGUMENTS: Final = {"arguments", "parameters"}


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()


def _string(raw: str) -> str | None:
    """What a string's JSON text stands for; None if it is no string."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
