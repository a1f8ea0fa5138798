"""How the next token is chosen, as it crosses the bus. People's input is validated at the HTTP edge and in `LLM`."""

from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAX_CHOICES: Final = 128
"""Of one request."""


class FinishCode(IntEnum):
    """Why a sequence ended, as one byte beside its last token."""

    RUNNING = 0
    STOP = 1
    """The last token is one of `stop_token_ids`."""
    LENGTH = 2
    """`max_tokens` or the model's context is used up."""
    ERROR = 3
    """The sequence could not be continued; a `Fault` says why."""
    COMPLETE = 4
    """The grammar allows nothing after the last token."""


class Pooling(IntEnum):
    """What vector a prompt becomes, of the model's last hidden states."""

    NONE = 0
    LAST = 1
    """That of the last token."""
    MEAN = 2
    """The mean of all tokens'."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The parameters of one request that the worker and the scheduler need.

    End-of-sequence tokens are among `stop_token_ids` (the gateway knows the tokenizer; `ignore_eos` leaves them out).
    Stop strings are not here: the gateway, which owns the text, finds them.

    Attributes:
        temperature: 0 means greedy.
        top_p: Mass of the nucleus, in (0, 1].
        top_k: Candidates kept; 0 means all.
        min_p: Least probability kept, relative to the most likely token's, in [0, 1].
        presence_penalty: Subtracted once from the logit of a token that the output holds.
        frequency_penalty: Subtracted once per occurrence in the output.
        repetition_penalty: Divides positive and multiplies negative logits of tokens in prompt or output; 1 is none.
        seed: Key of the counter-based generator. Choice `i` of a request uses `seed + i` modulo 2**64.
        max_tokens: Output tokens at most; the gateway has already bounded it by the model's context.
        min_tokens: Stop tokens are not chosen before that many output tokens.
        stop_token_ids: A token among these ends the sequence and is its last token.
        n: Choices.
        logit_bias: Pairs of a token and what is added to its logit; each token once.
        allowed_token_ids: No other token is chosen; empty means all are allowed.
        bad_words: Token sequences of which the output never holds one.
        logprobs: Likeliest tokens told beside each output token, with log-probabilities; None tells nothing, not even
            the output token's own.
        prompt_logprobs: The same for the tokens of the prompt, told once, with choice 0.
        pooling: What vector of the prompt is told with the first output token, if any.
        grammar: What the output must be, in a form that `shared.grammar` compiles; empty for anything. Stop tokens are
            no part of it, and are chosen only where it may end.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    max_tokens: Annotated[int, Meta(ge=1)] = 16
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    pooling: Pooling = Pooling.NONE
    grammar: str = ""

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and no random number is needed."""
        return self.temperature == 0.0

    def seed_of_choice(self, choice: int) -> int:
        """The generator's key for one of the n choices."""
        return (self.seed + choice) % 2**64
