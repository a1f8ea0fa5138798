"""One request of the offline API, from its tokens to its output. Pure: time is an argument."""

from dataclasses import dataclass, field

from gateway.streaming.token_logprobs import TokenLogprobs
from gateway.text.choice_text import ChoiceText, TextRules
from gateway.tokenizers.vocabulary import Vocabulary
from pagestream.engine import ChoiceOutput
from pagestream.offline.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from pagestream.offline.prompts import Prompt
from pagestream.offline.sampling_params import SamplingParams
from shared.sampling import FinishCode


@dataclass(slots=True)
class _Choice:
    """What one choice has so far."""

    reader: ChoiceText
    output: CompletionOutput
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Generation:
    """The n outputs of one prompt while they grow.

    Attributes:
        embedding: The prompt as a vector, f32 [hidden_size], if it was asked for.
    """

    def __init__(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        vocabulary: Vocabulary,
        *,
        is_whole_text: bool,
        metrics: RequestMetrics,
    ) -> None:
        """Start with no token.

        Args:
            request_id: New.
            prompt: What is continued.
            params: How.
            vocabulary: The model's.
            is_whole_text: Whether outputs are texts of their own, as a chat's answers are.
            metrics: To be filled in.
        """
        self.request_id = request_id
        self.prompt = prompt
        self.num_cached_tokens = 0
        self.embedding: bytes | None = None
        self.metrics = metrics
        self._params = params
        self._vocabulary = vocabulary
        self._prompt_logprobs: dict[int, TokenLogprobs] = {}
        rules = TextRules(
            stops=params.stops,
            stop_token_ids=params.stop_token_ids or (),
            min_tokens=params.min_tokens,
            includes_stop=params.include_stop_str_in_output,
            shows_special=not params.skip_special_tokens,
            is_whole_text=is_whole_text,
        )
        self._choices = [
            _Choice(ChoiceText(index, vocabulary, rules), CompletionOutput(index, "", ())) for index in range(params.n)
        ]

    @property
    def is_finished(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.output.finished() for choice in self._choices)

    def admit(self, now_s: float) -> None:
        """Note that it got a place in a batch; it may lose it and get another."""
        if self.metrics.first_scheduled_time is None:
            self.metrics.first_scheduled_time = now_s

    def push(self, got: ChoiceOutput, now_s: float) -> bool:
        """Take in what one choice got.

        Returns:
            Whether a stop string ended the choice, which nobody else knows.
        """
        choice = self._choices[got.choice]
        if choice.output.finished():
            return False
        if got.finish is FinishCode.ERROR:
            self._finish(choice, "error", now_s)
            choice.output.error = got.fault
            return False
        self._prompt_logprobs.update(got.prompt_logprobs)
        self.embedding = self.embedding or got.embedding
        if got.num_cached_tokens is not None and got.choice == 0:
            self.num_cached_tokens = got.num_cached_tokens
        if got.token_ids and self.metrics.first_token_time is None:
            self.metrics.first_token_time = now_s
        delta = choice.reader.push(got.token_ids, got.finish, got.logprobs)
        choice.token_ids += delta.token_ids
        if self._params.detokenize:
            choice.texts.append(delta.text)
        for scored in delta.scored:
            if scored.logprobs is not None:
                self._add_logprobs(choice.output, scored.token_id, scored.logprobs)
        if delta.finish_reason is not None:
            choice.output.stop_reason = delta.stop_reason
            self._finish(choice, delta.finish_reason, now_s)
        return delta.stopped_here

    @property
    def error(self) -> str | None:
        """What went wrong with one of the choices, if something did."""
        return next((choice.output.error for choice in self._choices if choice.output.error), None)

    def output(self) -> RequestOutput:
        """Everything, once it is finished."""
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt.text,
            prompt_token_ids=self.prompt.token_ids,
            outputs=[choice.output for choice in self._choices],
            metrics=self.metrics,
            prompt_logprobs=self._told_of_prompt(),
            num_cached_tokens=self.num_cached_tokens,
        )

    def _finish(self, choice: _Choice, reason: str, now_s: float) -> None:
        choice.output.finish_reason = reason
        choice.output.text = "".join(choice.texts)
        choice.output.token_ids = choice.token_ids
        self.metrics.num_generation_tokens += len(choice.token_ids)
        self.metrics.finished_time = now_s

    def _add_logprobs(self, output: CompletionOutput, token_id: int, logprobs: TokenLogprobs) -> None:
        if output.logprobs is None:
            output.logprobs, output.cumulative_logprob = [], 0.0
        output.logprobs.append(by_token(token_id, logprobs, self._vocabulary))
        output.cumulative_logprob = (output.cumulative_logprob or 0.0) + logprobs.logprob

    def _told_of_prompt(self) -> list[dict[int, Logprob] | None] | None:
        if self._params.prompt_logprobs is None:
            return None
        rest = enumerate(self.prompt.token_ids[1:], 1)
        return [None, *(by_token(token_id, self._prompt_logprobs[place], self._vocabulary) for place, token_id in rest)]


def by_token(token_id: int, logprobs: TokenLogprobs, vocabulary: Vocabulary) -> dict[int, Logprob]:
    """A token and the likeliest ones in its place."""
    told = {token_id: Logprob(logprobs.logprob, logprobs.rank, _text(token_id, vocabulary))}
    for rank, (other, logprob) in enumerate(logprobs.top, 1):
        told.setdefault(other, Logprob(logprob, rank, _text(other, vocabulary)))
    return told


def _text(token_id: int, vocabulary: Vocabulary) -> str:
    return vocabulary.bytes_of(token_id).decode(errors="replace")
