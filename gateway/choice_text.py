"""One choice from tokens to what its client reads: text up to a stop string, and the reason of its end. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.detokenizer import IncrementalDetokenizer
from gateway.openai_responses import FinishReason
from gateway.stopping import StopStringMatcher
from gateway.vocabulary import Vocabulary
from shared.sampling import FinishCode


class TextDelta(NamedTuple):
    """More text of a choice, which may be none yet.

    Attributes:
        finish_reason: Why it ended with this text, or None while it goes on.
        stopped_here: It ended by a stop string, which the scheduler does not know.
    """

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    stopped_here: bool = False


class ChoiceText:
    """The text of one choice.

    Attributes:
        num_tokens: Output tokens that count as used: up to the one that completes a stop string, or all.
        is_finished: Nothing more will be shown.
    """

    def __init__(self, choice: int, vocabulary: Vocabulary, stops: Sequence[str], *, is_whole_text: bool) -> None:
        self._choice = choice
        self._detokenizer = IncrementalDetokenizer(vocabulary, is_whole_text=is_whole_text)
        self._matcher = StopStringMatcher(stops)
        self._has_stops = bool(stops)
        self.num_tokens = 0
        self.is_finished = False

    def push(self, tokens: Sequence[int], finish: FinishCode) -> TextDelta:
        """Add tokens and, with the last of them, the end. A stop token ends the text and is not part of it."""
        shown = tokens[:-1] if finish is FinishCode.STOP else tokens
        text = ""
        for piece in [[token] for token in shown] if self._has_stops else [shown]:
            self.num_tokens += len(piece)
            checked = self._matcher.push(self._detokenizer.push(piece))
            text += checked.text
            if checked.stop is not None:
                self.is_finished = True
                return TextDelta(self._choice, text, "stop", stopped_here=finish is FinishCode.RUNNING)
        if finish is FinishCode.RUNNING:
            return TextDelta(self._choice, text)
        self.num_tokens += len(tokens) - len(shown)
        self.is_finished = True
        return self._end(text, "length" if finish is FinishCode.LENGTH else "stop")

    def _end(self, text: str, reason: FinishReason) -> TextDelta:
        checked = self._matcher.push(self._detokenizer.flush())
        if checked.stop is not None:
            return TextDelta(self._choice, text + checked.text, "stop")
        return TextDelta(self._choice, text + checked.text + self._matcher.flush(), reason)
