"""What a parser makes of a message's text: content and calls. Pure."""

from typing import NamedTuple, Protocol


class CallDelta(NamedTuple):
    """More of one call.

    Attributes:
        call: Its place in its message.
        name: Of the function, with the call's first delta, and only there.
        arguments: More of the JSON text of its arguments.
    """

    call: int
    name: str | None = None
    arguments: str = ""


class Parsed(NamedTuple):
    """What became certain with a piece of text."""

    content: str = ""
    calls: tuple[CallDelta, ...] = ()


class CallParser(Protocol):
    """Reads the text of one message as it comes. What it returns in all does not depend on where the text is cut."""

    def push(self, text: str) -> Parsed:
        """Add a piece."""

    def finish(self) -> Parsed:
        """End the text, which may be in the middle of a call."""


class MessageDraft:
    """Collects what a parser finds. White space around calls is dropped, as is each call beyond the limit."""

    def __init__(self, max_calls: int | None) -> None:
        self._max_calls = max_calls
        self._num_calls = 0
        self._content: list[str] = []
        self._space = ""
        self._calls: list[CallDelta] = []

    def text(self, text: str) -> None:
        """Content. White space at its end waits for what follows."""
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._content.append(shown)

    def begin_call(self, name: str) -> None:
        """A new call, which what follows belongs to."""
        self._space = ""
        self._num_calls += 1
        if not self._is_beyond_limit:
            self._calls.append(CallDelta(self._num_calls - 1, name))

    def arguments(self, text: str) -> None:
        """More arguments of the last call."""
        if not text or self._is_beyond_limit:
            return
        if self._calls:
            last = self._calls[-1]
            self._calls[-1] = last._replace(arguments=last.arguments + text)
        else:
            self._calls.append(CallDelta(self._num_calls - 1, None, text))

    def end(self) -> None:
        """Nothing follows. Only a message without calls keeps the white space at its end."""
        if self._space and not self._num_calls:
            self._content.append(self._space)
        self._space = ""

    def take(self) -> Parsed:
        """What was collected since the last time."""
        parsed = Parsed("".join(self._content), tuple(self._calls))
        self._content, self._calls = [], []
        return parsed

    @property
    def _is_beyond_limit(self) -> bool:
        return self._max_calls is not None and self._num_calls > self._max_calls
