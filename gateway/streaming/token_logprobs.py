"""Log-probabilities as they come from the bus, token by token. Pure."""

from typing import NamedTuple

from shared.errors import MessageError
from shared.messages import Logprobs
from shared.packing import unpack_f32, unpack_u32


class TokenLogprobs(NamedTuple):
    """What the model made of one place of a text.

    Attributes:
        logprob: Natural logarithm of the probability of the token that stands there; may be negative infinity.
        rank: Its place among all tokens; 1 is the likeliest.
        top: The likeliest tokens with theirs, the likeliest first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


class ScoredToken(NamedTuple):
    """One token of a text, as far as its log-probabilities are told.

    Attributes:
        text_offset: Characters of the text before it.
        logprobs: None for the first token of a prompt, which nothing comes before.
    """

    token_id: int
    text_offset: int
    logprobs: TokenLogprobs | None


def unpack_logprobs(packed: Logprobs) -> list[TokenLogprobs]:
    """Take a message's parallel arrays apart.

    Raises:
        MessageError: the arrays contradict each other.
    """
    chosen, ranks = unpack_f32(packed.chosen), unpack_u32(packed.ranks)
    top_ids, top = unpack_u32(packed.top_ids), unpack_f32(packed.top)
    width = packed.num_top
    if len(chosen) != len(ranks) or not len(top_ids) == len(top) == width * len(chosen):
        raise MessageError(f"{len(chosen)} log-probabilities with {len(ranks)} ranks and {len(top)} others")
    pairs = tuple(zip(top_ids, top, strict=True))
    return [
        TokenLogprobs(logprob, rank, pairs[place * width : (place + 1) * width])
        for place, (logprob, rank) in enumerate(zip(chosen, ranks, strict=True))
    ]
