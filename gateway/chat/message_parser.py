"""A message's text as it comes, taken apart into reasoning, content and calls. Pure."""

from typing import NamedTuple

from gateway.chat.reasoning import ReasoningSplitter
from gateway.tool_calls.parsed import CallDelta, CallParser, Parsed


class MessageDelta(NamedTuple):
    """More of a message."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


class MessageParser:
    """Takes apart one message. What it returns in all does not depend on where the text is cut.

    Args:
        splitter: None where the model does not reason.
        calls: None where nothing may be called.
    """

    def __init__(self, splitter: ReasoningSplitter | None, calls: CallParser | None) -> None:
        self._splitter = splitter
        self._calls = calls

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer has not begun."""
        return self._splitter is not None and self._splitter.is_reasoning

    @property
    def has_reasoned(self) -> bool:
        """Whether a part of it is reasoning."""
        return self._splitter is not None and self._splitter.has_reasoned

    def push(self, text: str) -> MessageDelta:
        """Add a piece."""
        if self._splitter is None:
            return self._delta("", self._parse(text))
        reasoning, answer = self._splitter.push(text)
        return self._delta(reasoning, self._parse(answer))

    def finish(self) -> MessageDelta:
        """End the text."""
        reasoning, answer = self._splitter.finish() if self._splitter else ("", "")
        first = self._parse(answer)
        last = self._calls.finish() if self._calls else Parsed()
        return self._delta(reasoning, Parsed(first.content + last.content, first.calls + last.calls))

    def _parse(self, text: str) -> Parsed:
        if self._calls is None or not text:
            return Parsed(text)
        return self._calls.push(text)

    @staticmethod
    def _delta(reasoning: str, parsed: Parsed) -> MessageDelta:
        return MessageDelta(parsed.content, reasoning, parsed.calls)
