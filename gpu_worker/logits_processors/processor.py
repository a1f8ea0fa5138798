"""The interface of whatever changes logits."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.messages import Admitted


class LogitsProcessor(Protocol):
    """Changes the logits of those rows whose requests ask for it.

    What it knows of a sequence derives from `admit` and `commit` alone. So a sequence that is admitted again elsewhere,
    with its output so far, goes on exactly as it would have here.
    """

    def admit(self, admitted: Admitted) -> bool:
        """Take a new sequence in, if there is something to do for it; say whether there is.

        Only of those that are taken in do the other calls tell.
        """

    def commit(self, slot: int, token: int) -> None:
        """A sequence goes on with this token."""

    def release(self, slot: int) -> None:
        """Forget a sequence."""

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """Change the rows in place; a token that must not be chosen gets negative infinity.

        Args:
            logits: [num_rows, vocab_size] float32, contiguous.
            rows: At least one; the rows of `logits` that belong to sequences taken in.
            slots: As many; whose they are.
        """
