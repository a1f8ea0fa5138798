"""Where the tokens of several rows are in a table of logits, so that one operation reaches them all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


def known_tokens(tokens: Sequence[int], vocab_size: int) -> TokenIds:
    """Those of the tokens that the model has a logit for."""
    ids = np.array(tokens, np.int64)
    return ids[ids < vocab_size]


def places_of(rows: NDArray[np.int64], tokens: Sequence[TokenIds], vocab_size: int) -> NDArray[np.int64]:
    """The places in `logits.view(-1)` of each row's tokens, row after row.

    Args:
        rows: [num_rows].
        tokens: The tokens of each row.
        vocab_size: Length of a row.
    """
    counts = [len(ids) for ids in tokens]
    return np.repeat(rows * vocab_size, counts) + np.concatenate(tokens)
