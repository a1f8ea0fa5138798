"""One choice from tokens to what its client reads: text up to a stop string, and the reason of its end. Pure."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.protocol.openai_responses import FinishReason
from gateway.streaming.token_logprobs import ScoredToken, TokenLogprobs
from gateway.text.stopping import Checked, StopStringMatcher
from gateway.tokenizers.detokenizer import IncrementalDetokenizer
from gateway.tokenizers.vocabulary import Vocabulary
from shared.sampling import FinishCode


class ToolCall(NamedTuple):
    """A call, or more of one.

    Attributes:
        call: Its place in its message.
        call_id: With the call's first delta, and only there.
        name: Of the function; the same.
        arguments: JSON text.
    """

    call: int
    call_id: str | None
    name: str | None
    arguments: str


class TextDelta(NamedTuple):
    """More text of a choice, which may be none yet.

    Attributes:
        finish_reason: Why it ended with this text, or None while it goes on.
        stopped_here: It ended by a stop string, which the scheduler does not know.
        stop_reason: The stop string, or the id of the stop token that the client named, that ended it.
        token_ids: Tokens that count as used. Their text may come later, or be cut away by a stop string.
        scored: The same tokens with their log-probabilities, if the client asks for these.
        reasoning: Text that comes before all other.
        calls: Of tools; they come after the text.
    """

    choice: int
    text: str
    finish_reason: FinishReason | None = None
    stopped_here: bool = False
    stop_reason: str | int | None = None
    token_ids: Sequence[int] = ()
    scored: Sequence[ScoredToken] = ()
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()

    def followed_by(self, other: "TextDelta") -> "TextDelta":
        """Both in one."""
        return other._replace(
            text=self.text + other.text,
            token_ids=[*self.token_ids, *other.token_ids],
            scored=[*self.scored, *other.scored],
            reasoning=self.reasoning + other.reasoning,
            calls=[*self.calls, *other.calls],
        )


class TextRules(NamedTuple):
    """What of a choice's tokens its client reads.

    Attributes:
        stops: Stop strings.
        stop_token_ids: Stop tokens that the client named; the model's own ends are no reason that is told.
        min_tokens: Stop strings count in the text that comes after so many tokens.
        includes_stop: Whether what stops a text is part of it.
        shows_special: Whether special tokens are text.
        is_whole_text: See `IncrementalDetokenizer`.
        start_offset: Characters that the client reads before the first token's.
    """

    stops: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    min_tokens: int = 0
    includes_stop: bool = False
    shows_special: bool = False
    is_whole_text: bool = True
    start_offset: int = 0


class ChoiceReader(Protocol):
    """Follows the tokens of one choice.

    Attributes:
        num_tokens: Output tokens that count as used.
        num_reasoning_tokens: Those of them that are reasoning.
        is_finished: Nothing more will be shown.
    """

    @property
    def num_tokens(self) -> int: ...  # noqa: D102 - see above
    @property
    def num_reasoning_tokens(self) -> int: ...  # noqa: D102
    @property
    def is_finished(self) -> bool: ...  # noqa: D102

    def push(self, tokens: Sequence[int], finish: FinishCode, logprobs: Sequence[TokenLogprobs] = ()) -> TextDelta:
        """Add tokens and, with the last of them, the end.

        Args:
            tokens: They follow those of earlier calls.
            finish: RUNNING, or how the choice ended with them; not ERROR.
            logprobs: Of each token, or none at all.
        """


class ChoiceText:
    """The text of one choice. Implements `ChoiceReader`.

    A stop token ends the text and is not part of it. Tokens count up to the one that completes a stop string.
    """

    def __init__(self, choice: int, vocabulary: Vocabulary, rules: TextRules) -> None:
        self._choice = choice
        self._rules = rules
        self._detokenizer = IncrementalDetokenizer(
            vocabulary, is_whole_text=rules.is_whole_text, shows_special=rules.shows_special
        )
        self._matcher = StopStringMatcher(rules.stops, shows_stop=rules.includes_stop)
        self._offset = rules.start_offset
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.is_finished = False

    def push(self, tokens: Sequence[int], finish: FinishCode, logprobs: Sequence[TokenLogprobs] = ()) -> TextDelta:
        """See `ChoiceReader`."""
        is_stopped = finish is FinishCode.STOP
        shown = tokens[:-1] if is_stopped and not self._rules.includes_stop else tokens
        text, scored = "", list[ScoredToken]()
        for place, piece in enumerate([[token] for token in shown] if self._rules.stops or logprobs else [shown]):
            self.num_tokens += len(piece)
            if logprobs:
                scored.append(ScoredToken(piece[0], self._offset, logprobs[place]))
            checked = self._check(piece)
            text += checked.text
            if checked.stop is not None:
                self.is_finished = True
                running = finish is FinishCode.RUNNING
                return TextDelta(self._choice, text, "stop", running, checked.stop, tokens[: place + 1], scored)
        if finish is FinishCode.RUNNING:
            return TextDelta(self._choice, text, token_ids=tokens, scored=scored)
        self.num_tokens += len(tokens) - len(shown)
        if logprobs and len(tokens) > len(shown):
            scored.append(ScoredToken(tokens[-1], self._offset, logprobs[-1]))
        self.is_finished = True
        end = self._end(text)
        reason: FinishReason = "length" if finish is FinishCode.LENGTH and end.stop is None else "stop"
        stop_reason: str | int | None = end.stop
        if is_stopped and end.stop is None and tokens[-1] in self._rules.stop_token_ids:
            stop_reason = tokens[-1]
        return TextDelta(self._choice, end.text, reason, stop_reason=stop_reason, token_ids=tokens, scored=scored)

    def _check(self, piece: Sequence[int]) -> Checked:
        new = self._detokenizer.push(piece)
        self._offset += len(new)
        return self._matcher.push(new) if self.num_tokens > self._rules.min_tokens else Checked(new)

    def _end(self, text: str) -> Checked:
        rest = self._matcher.push(self._detokenizer.flush())
        return Checked(text + rest.text + ("" if rest.stop is not None else self._matcher.flush()), rest.stop)


class SilentChoice:
    """A choice of no output tokens. Implements `ChoiceReader`.

    One token is computed, as the last step of the prompt, and nobody is told.
    """

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.is_finished = False

    def push(self, tokens: Sequence[int], finish: FinishCode, logprobs: Sequence[TokenLogprobs] = ()) -> TextDelta:
        """See `ChoiceReader`."""
        self.is_finished = finish is not FinishCode.RUNNING
        return TextDelta(self._choice, "", "length" if self.is_finished else None)
