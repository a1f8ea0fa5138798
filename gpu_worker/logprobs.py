"""Log-probabilities of the model's own distribution, before any parameter changes it; only for those who ask."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.batch_state import BatchState, Work
from gpu_worker.runner import PromptLogprobs
from shared.ids import Slot
from shared.messages import Logprobs

_PROMPT_ROWS: Final = 64
"""Positions of a prompt whose logits are in memory at once: 12 MB for 49,152 tokens."""


class OutputLogprobs(NamedTuple):
    """The distributions of a step's rows that ask for log-probabilities, kept until their tokens are chosen.

    Attributes:
        rows: [num_asking], which rows of the logits.
        num_top: [num_asking].
        table: [num_asking, vocab_size] float32.
    """

    rows: NDArray[np.int64]
    num_top: NDArray[np.int64]
    table: Tensor

    @classmethod
    def of(cls, state: BatchState, logits: Tensor, slots: NDArray[np.int64]) -> "OutputLogprobs | None":
        """Keep what is asked for; None if nobody asks.

        Args:
            state: Who asks.
            logits: [num_rows, vocab_size] float32, as the model gives them; not changed.
            slots: [num_rows], whose they are.
        """
        num_top = state.num_logprobs[slots]
        rows = np.flatnonzero(num_top >= 0)
        if not len(rows):
            return None
        asking = logits if len(rows) == len(slots) else logits[torch.from_numpy(rows).to(logits.device)]
        return cls(rows, num_top[rows], asking.log_softmax(-1))

    def told(self, tokens: Sequence[int]) -> dict[int, Logprobs]:
        """What each asking row is told, by row.

        Args:
            tokens: [num_rows], what was chosen.
        """
        chosen = torch.tensor([tokens[row] for row in self.rows.tolist()], device=self.table.device)
        ranked = _Ranked.of(self.table, chosen, int(self.num_top.max()))
        return {
            row: ranked.logprobs(slice(place, place + 1), num_top)
            for place, (row, num_top) in enumerate(zip(self.rows.tolist(), self.num_top.tolist(), strict=True))
        }


def prompt_logprobs(
    state: BatchState, work: Work, hidden: Tensor, head: Callable[[Tensor], Tensor]
) -> list[PromptLogprobs]:
    """Of those tokens of prompts that follow the ones which this step computes, for those who ask.

    Args:
        state: As it is before `advance`.
        work: What was computed.
        hidden: [num_tokens, hidden_size], the model's last states.
        head: From such states to logits.
    """
    asking = np.flatnonzero(state.num_prompt_logprobs[work.slots] >= 0)
    if not len(asking):
        return []
    start_of_row = np.concatenate(([0], np.cumsum(work.num_tokens)))
    told = []
    for row in asking.tolist():
        slot, start = int(work.slots[row]), int(start_of_row[row])
        first = int(state.num_computed[slot])
        # The last position of the prompt is followed by output.
        count = min(int(work.num_tokens[row]), int(state.num_prompt_tokens[slot]) - 1 - first)
        if count > 0:
            following = torch.from_numpy(state.tokens[slot, first + 1 : first + 1 + count].astype(np.int64))
            logprobs = _of_prompt(
                hidden[start : start + count],
                following.to(hidden.device),
                head,
                num_top=int(state.num_prompt_logprobs[slot]),
            )
            told.append(PromptLogprobs(Slot(slot), first + 1, logprobs))
    return told


def _of_prompt(hidden: Tensor, following: Tensor, head: Callable[[Tensor], Tensor], *, num_top: int) -> Logprobs:
    parts = [
        _Ranked.of(head(hidden[place:stop]).log_softmax(-1), following[place:stop], num_top)
        for place in range(0, len(hidden), _PROMPT_ROWS)
        for stop in [place + _PROMPT_ROWS]
    ]
    whole = _Ranked(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return whole.logprobs(slice(None), num_top)


class _Ranked(NamedTuple):
    """The few numbers that are told of some distributions.

    Attributes:
        chosen: [num_rows] float32.
        ranks: [num_rows] uint32.
        top_ids: [num_rows, num_top] uint32.
        top: [num_rows, num_top] float32.
    """

    chosen: NDArray[np.float32]
    ranks: NDArray[np.uint32]
    top_ids: NDArray[np.uint32]
    top: NDArray[np.float32]

    @classmethod
    def of(cls, table: Tensor, tokens: Tensor, num_top: int) -> "_Ranked":
        """Take them out of a table [num_rows, vocab_size] of log-probabilities."""
        chosen = table.gather(1, tokens[:, None])
        ranks = (table > chosen).sum(-1) + 1
        top, top_ids = table.topk(min(num_top, table.shape[1]), dim=-1)
        return cls(
            chosen.squeeze(1).cpu().numpy(),
            ranks.cpu().numpy().astype(np.uint32),
            top_ids.cpu().numpy().astype(np.uint32),
            top.cpu().numpy(),
        )

    def logprobs(self, rows: slice, num_top: int) -> Logprobs:
        """Some rows as they are sent, with as many of their likeliest tokens."""
        top_ids, top = self.top_ids[rows, :num_top], self.top[rows, :num_top]
        return Logprobs(
            num_top=top.shape[1],
            chosen=self.chosen[rows].astype("<f4").tobytes(),
            ranks=self.ranks[rows].astype("<u4").tobytes(),
            top_ids=top_ids.astype("<u4").tobytes(),
            top=top.astype("<f4").tobytes(),
        )
