"""Log-probabilities without a model: a function of the token alone, so that a lost or misplaced one shows."""

from collections.abc import Sequence

from shared.messages import Logprobs
from shared.packing import pack_f32, pack_u32

_NUM_RANKS = 3


def fake_logprobs(tokens: Sequence[int], num_top: int, vocab_size: int) -> Logprobs:
    """What a `FakeRunner` tells of these tokens: each is at rank 1, 2 or 3, and rank r has -r / 4.

    Args:
        tokens: Consecutive ones of one sequence.
        num_top: Likeliest tokens told for each: those numbered around it.
        vocab_size: Of the model that is not there.
    """
    ranks = [1 + token % _NUM_RANKS for token in tokens]
    num_top = min(num_top, vocab_size)
    return Logprobs(
        num_top=num_top,
        chosen=pack_f32(-rank / 4 for rank in ranks),
        ranks=pack_u32(ranks),
        top_ids=pack_u32(
            (token + 1 - rank + place) % vocab_size
            for token, rank in zip(tokens, ranks, strict=True)
            for place in range(num_top)
        ),
        top=pack_f32(-place / 4 for _ in tokens for place in range(1, num_top + 1)),
    )
