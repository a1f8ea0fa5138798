"""How `/v1/completions` writes its answers."""

from collections.abc import Mapping, Sequence

from gateway.protocol.openai_responses import TextChoice, TextLogprobs, Usage
from gateway.shapes.content_logprobs import finite
from gateway.shapes.shape import Output, Prompt, ShapeBase
from gateway.streaming.token_logprobs import ScoredToken
from gateway.text.choice_text import TextDelta

_BYTES_PREFIX = "bytes:"


class TextShape(ShapeBase):
    """Implements `Shape`. Everything about a prompt stands in each of its choices."""

    is_message = False
    _KIND = "text_completion"

    def response(self, outputs: Sequence[Output], prompts: Sequence[Prompt], usage: Usage) -> bytes:
        """See `Shape`."""
        num_choices = len(outputs) // len(prompts)
        choices = []
        for index, output in enumerate(outputs):
            prompt = prompts[index // num_choices]
            choices.append(
                TextChoice(
                    index=index,
                    text=output.text,
                    finish_reason=output.finish_reason,
                    logprobs=self._logprobs(output.scored),
                    stop_reason=output.stop_reason,
                    token_ids=self._token_ids(output.token_ids),
                    prompt_token_ids=self._token_ids(prompt.token_ids),
                    prompt_logprobs=self._prompt_logprobs(prompt),
                )
            )
        return self._encode(self._KIND, choices, usage)

    def opening_chunk(self, choice: int, prompt: Prompt) -> bytes | None:
        """The prompt's tokens, if they are asked for; text needs no opening."""
        if not self.detail.token_ids:
            return None
        return self._chunk(TextChoice(index=choice, text="", token_ids=(), prompt_token_ids=prompt.token_ids), None)

    def text_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """See `Shape`."""
        choice = TextChoice(
            index=delta.choice,
            text=delta.text,
            logprobs=self._logprobs(delta.scored),
            token_ids=self._token_ids(delta.token_ids),
        )
        return self._chunk(choice, usage)

    def closing_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """See `Shape`."""
        choice = TextChoice(
            index=delta.choice, text="", finish_reason=delta.finish_reason, stop_reason=delta.stop_reason
        )
        return self._chunk(choice, usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """See `Shape`."""
        return self._encode(self._KIND, (), usage)

    def _chunk(self, choice: TextChoice, usage: Usage | None) -> bytes:
        return self._encode(self._KIND, (choice,), self._chunk_usage(usage))

    def _logprobs(self, scored: Sequence[ScoredToken]) -> TextLogprobs | None:
        if self.detail.num_top_logprobs is None:
            return None
        return TextLogprobs(
            tokens=[self._name(token.token_id) for token in scored],
            token_logprobs=[token.logprobs and finite(token.logprobs.logprob) for token in scored],
            top_logprobs=[self._top(token) for token in scored],
            text_offset=[token.text_offset for token in scored],
        )

    def _top(self, token: ScoredToken) -> Mapping[str, float] | None:
        """The likeliest tokens by their names, and the token itself even if it is not among them."""
        if token.logprobs is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in (*token.logprobs.top, (token.token_id, token.logprobs.logprob)):
            top.setdefault(self._name(token_id), finite(logprob))
        return top

    def _name(self, token_id: int) -> str:
        return self._names.name(token_id, bytes_prefix=_BYTES_PREFIX)
