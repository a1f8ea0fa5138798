"""Log-probabilities of a message's tokens, as OpenAI's endpoints for messages tell them. Pure."""

from typing import Final

from gateway.protocol.openai_responses import ContentLogprob, TopLogprob
from gateway.shapes.token_names import TokenNames
from gateway.streaming.token_logprobs import ScoredToken

LEAST_LOGPROB: Final = -9999.0
"""Stands for negative infinity, which JSON does not have."""


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(LEAST_LOGPROB, logprob)  # in this order, for a NaN


def content_logprob(names: TokenNames, token: ScoredToken) -> ContentLogprob:
    """One output token's."""
    assert token.logprobs is not None, "only a prompt has a token without"
    top = [
        TopLogprob(names.name(other), finite(logprob), names.bytes_of(other)) for other, logprob in token.logprobs.top
    ]
    name, data = names.name(token.token_id), names.bytes_of(token.token_id)
    return ContentLogprob(name, finite(token.logprobs.logprob), data, top)
