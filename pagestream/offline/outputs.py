"""What `LLM` gives. Names and meanings are vLLM's."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely the model found one token.

    Attributes:
        logprob: Natural logarithm of its probability.
        rank: Its place among all tokens; 1 is the likeliest.
        decoded_token: Its text.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(slots=True, kw_only=True)
class RequestMetrics:
    """When things happened to a request, in seconds since it arrived.

    So each time is a duration as well: `num_tokens / metrics.finished_time` is a speed, and
    `first_token_time - arrival_time` is the wait for the first token.

    Attributes:
        arrived_at: Unix time, for whoever wants to know the hour.
        arrival_time: 0, the origin of the other times.
        first_scheduled_time: It got a place in a batch; None if it never did.
        first_token_time: Its first token was there; None if it has none.
        finished_time: Its last choice had ended.
        num_generation_tokens: Output tokens of all its choices.
    """

    arrived_at: float
    arrival_time: float = 0.0
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float = 0.0
    num_generation_tokens: int = 0

    @property
    def time_in_queue(self) -> float | None:
        """Seconds it waited for a place."""
        return self.first_scheduled_time

    @property
    def tokens_per_second(self) -> float:
        """Output tokens per second from its arrival to its end."""
        return self.num_generation_tokens / self.finished_time if self.finished_time else 0.0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Output tokens per second after the first one; None if there are no others."""
        if self.first_token_time is None or self.num_generation_tokens <= 1:
            return None
        decoding_s = self.finished_time - self.first_token_time
        return (self.num_generation_tokens - 1) / decoding_s if decoding_s > 0 else None


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's outputs.

    Attributes:
        index: Which of the n.
        token_ids: The token that ended it included.
        cumulative_logprob: Sum over its tokens; None unless `logprobs` were asked for.
        logprobs: For each token, the likeliest ones and itself.
        finish_reason: "stop", "length", or "error" for a request that could not be continued.
        stop_reason: The stop string or the stop token that ended it; None for the model's own end tokens.
        error: What went wrong, if something did.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None

    def finished(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and what the model made of it.

    Attributes:
        prompt: None where token ids were given.
        prompt_logprobs: For each token of the prompt, as `CompletionOutput.logprobs`; None for the first token.
        finished: Always true here.
        num_cached_tokens: Tokens of the prompt that the prefix cache held.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    finished: bool = True
    num_cached_tokens: int = 0
