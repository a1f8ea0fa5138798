"""One choice from tokens to a message: its text, taken apart into reasoning, content and calls. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.chat.message_parser import MessageDelta, MessageParser
from gateway.chat.reasoning import ReasoningFormat, ReasoningSplitter, Start
from gateway.streaming.token_logprobs import TokenLogprobs
from gateway.text.choice_text import ChoiceText, TextDelta, TextRules, ToolCall
from gateway.tokenizers.vocabulary import Vocabulary
from gateway.tool_calls.format import ToolCallFormat
from gateway.tool_calls.tools import ToolUse
from shared.sampling import FinishCode


class MessageReading(NamedTuple):
    """How the choices of one request are read.

    Attributes:
        vocabulary: Shows the marks of the formats.
        reasoning: None if the model does not reason.
        start: How an output begins.
        use: What may be called; None if nothing may.
        calls: How calls are written; None if nobody can tell.
        completion_id: What ids of calls are made from.
        shows_reasoning: Whether the client reads it.
    """

    vocabulary: Vocabulary
    reasoning: ReasoningFormat | None
    start: Start
    use: ToolUse | None
    calls: ToolCallFormat | None
    completion_id: str
    shows_reasoning: bool = True

    def reader(self, choice: int, rules: TextRules) -> "ChoiceMessage":
        """For one choice."""
        return ChoiceMessage(choice, self, ChoiceText(choice, self.vocabulary, rules))

    def parser(self) -> MessageParser:
        """For one choice."""
        splitter = ReasoningSplitter(self.reasoning, self.start) if self.reasoning else None
        if self.use is None or self.calls is None:
            return MessageParser(splitter, None)
        max_calls = None if self.use.is_parallel else 1
        return MessageParser(splitter, self.calls.parser(self.use.callable, max_calls=max_calls))

    def call_id(self, choice: int, call: int) -> str:
        """The id of a call, the same for whoever reads it."""
        assert self.calls is not None
        return self.calls.call_id(f"{self.completion_id}/{choice}/{call}".encode())


class ChoiceMessage:
    """The message of one choice. Implements `ChoiceReader`."""

    def __init__(self, choice: int, reading: MessageReading, text: ChoiceText) -> None:
        self._choice = choice
        self._reading = reading
        self._text = text
        self._parser = reading.parser()
        self._has_calls = False
        self.num_reasoning_tokens = 0

    @property
    def num_tokens(self) -> int:
        """See `ChoiceReader`."""
        return self._text.num_tokens

    @property
    def is_finished(self) -> bool:
        """See `ChoiceReader`."""
        return self._text.is_finished

    def push(self, tokens: Sequence[int], finish: FinishCode, logprobs: Sequence[TokenLogprobs] = ()) -> TextDelta:
        """See `ChoiceReader`. While it reasons, tokens are looked at one by one, for they are counted."""
        if not self._parser.is_reasoning or len(tokens) < 2:  # noqa: PLR2004 - one token needs no loop
            return self._push(tokens, finish, logprobs)
        whole = TextDelta(self._choice, "")
        for place, token in enumerate(tokens):
            code = finish if place == len(tokens) - 1 else FinishCode.RUNNING
            whole = whole.followed_by(self._push([token], code, logprobs[place : place + 1]))
            if self.is_finished:
                break
        return whole

    def _push(self, tokens: Sequence[int], finish: FinishCode, logprobs: Sequence[TokenLogprobs]) -> TextDelta:
        was_reasoning = self._parser.is_reasoning
        delta = self._text.push(tokens, finish, logprobs)
        parsed = [self._parser.push(delta.text)]
        if was_reasoning:
            self.num_reasoning_tokens = self.num_tokens if self._parser.has_reasoned else 0
        if delta.finish_reason is not None:
            parsed.append(self._parser.finish())
        calls = [call for part in parsed for call in self._calls(part)]
        self._has_calls |= bool(calls)
        return delta._replace(
            text="".join(part.content for part in parsed),
            reasoning="".join(part.reasoning for part in parsed) if self._reading.shows_reasoning else "",
            calls=calls,
            finish_reason="tool_calls" if self._ends_by_calls(delta) else delta.finish_reason,
        )

    def _calls(self, parsed: MessageDelta) -> list[ToolCall]:
        return [
            ToolCall(
                call=delta.call,
                call_id=None if delta.name is None else self._reading.call_id(self._choice, delta.call),
                name=delta.name,
                arguments=delta.arguments,
            )
            for delta in parsed.calls
        ]

    def _ends_by_calls(self, delta: TextDelta) -> bool:
        """Where the client named the function, its call is no decision of the model's, and OpenAI says "stop"."""
        use = self._reading.use
        return delta.finish_reason == "stop" and self._has_calls and use is not None and use.mode != "named"
