"""What the shapes of both endpoints' answers have in common."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from gateway.protocol.openai_responses import (
    ChatChoice,
    ChatChunkChoice,
    CompletionResponse,
    FinishReason,
    PromptLogprob,
    PromptLogprobs,
    TextChoice,
    Usage,
)
from gateway.shapes.content_logprobs import finite
from gateway.shapes.token_names import TokenNames
from gateway.streaming.token_logprobs import ScoredToken, TokenLogprobs
from gateway.text.choice_text import TextDelta, ToolCall


class Envelope(NamedTuple):
    """What every body of one answer says beside its choices.

    Attributes:
        service_tier: That served it, if the client asked for one.
    """

    completion_id: str
    created: int
    model: str
    system_fingerprint: str = ""
    service_tier: str | None = None


class Detail(NamedTuple):
    """What is told beside the text, if the client asks for it.

    Attributes:
        num_top_logprobs: Likeliest tokens told beside each output token; None tells no log-probabilities.
        prompt_logprobs: Whether those of the prompts are told on their own; an echo has them among its tokens.
        token_ids: Whether the ids of prompts and outputs are told.
        usage: Whether a stream ends with the tokens used.
        continuous_usage: Whether each chunk tells the tokens used so far.
    """

    num_top_logprobs: int | None = None
    prompt_logprobs: bool = False
    token_ids: bool = False
    usage: bool = False
    continuous_usage: bool = False

    @property
    def follows_tokens(self) -> bool:
        """Whether something is told of each token, so that a chunk is due even where there is no new text."""
        return self.token_ids or self.num_top_logprobs is not None or self.continuous_usage


class Output(NamedTuple):
    """One finished choice."""

    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    token_ids: Sequence[int] = ()
    scored: Sequence[ScoredToken] = ()
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()


class Prompt(NamedTuple):
    """What may be told of one prompt.

    Attributes:
        logprobs: Of each token, None for the first; empty if nobody asks.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs | None] = ()


class Shape(Protocol):
    """How one endpoint writes its answers: whole, or as chunks."""

    @property
    def is_message(self) -> bool:
        """Whether each output is a message of its own; else it continues its prompt."""

    @property
    def detail(self) -> Detail:
        """What is told beside the text."""

    def response(self, outputs: Sequence[Output], prompts: Sequence[Prompt], usage: Usage) -> bytes:
        """The whole answer; each prompt has as many outputs."""

    def opening_chunk(self, choice: int, prompt: Prompt) -> bytes | None:
        """What a choice begins with, before any text."""

    def text_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """More text of a choice, without its end."""

    def closing_chunk(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """The end of a choice, without its text."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """The end of the stream, if usage was asked for."""


class ShapeBase:
    """The parts that do not depend on the endpoint."""

    def __init__(self, envelope: Envelope, names: TokenNames, detail: Detail) -> None:
        self.detail = detail
        self._names = names
        self._envelope = envelope

    def _encode(
        self,
        kind: str,
        choices: Sequence[ChatChoice | ChatChunkChoice | TextChoice],
        usage: Usage | UnsetType | None,
        *,
        prompt_token_ids: Sequence[int] | UnsetType = UNSET,
        prompt_logprobs: PromptLogprobs | UnsetType = UNSET,
    ) -> bytes:
        envelope = self._envelope
        body = CompletionResponse(
            id=envelope.completion_id,
            object=kind,
            created=envelope.created,
            model=envelope.model,
            choices=choices,
            system_fingerprint=envelope.system_fingerprint,
            service_tier=UNSET if envelope.service_tier is None else envelope.service_tier,
            usage=usage,
            prompt_token_ids=prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
        )
        return msgspec.json.encode(body)

    def _chunk_usage(self, usage: Usage | None) -> Usage | UnsetType | None:
        """Where usage comes at the end, every other chunk says that it has none."""
        return usage if usage is not None or self.detail.usage else UNSET

    def _token_ids(self, token_ids: Sequence[int]) -> Sequence[int] | UnsetType:
        return token_ids if self.detail.token_ids else UNSET

    def _prompt_logprobs(self, prompt: Prompt) -> PromptLogprobs | UnsetType:
        if not self.detail.prompt_logprobs:
            return UNSET
        pairs = zip(prompt.token_ids, prompt.logprobs, strict=True)
        return [None if logprobs is None else self._by_token_id(token_id, logprobs) for token_id, logprobs in pairs]

    def _by_token_id(self, token_id: int, logprobs: TokenLogprobs) -> Mapping[int, PromptLogprob]:
        told = {token_id: self._prompt_logprob(token_id, logprobs.logprob, logprobs.rank)}
        for rank, (other, logprob) in enumerate(logprobs.top, 1):
            told.setdefault(other, self._prompt_logprob(other, logprob, rank))
        return told

    def _prompt_logprob(self, token_id: int, logprob: float, rank: int) -> PromptLogprob:
        return PromptLogprob(finite(logprob), rank, self._names.name(token_id))
