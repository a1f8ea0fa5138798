"""Chooses the next token of each row that is up to date. Rows pay only for what their parameters ask for."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.batch_state import BatchState
from kernels.arguments import SamplingTensors
from kernels.ops import Ops
from kernels.philox import uniforms
from shared.sampling import SamplingParams


class Sampled(NamedTuple):
    """The outcome, row by row.

    Attributes:
        tokens: [num_rows]; of no meaning where a row is not valid.
        is_valid: [num_rows]; False where the model gave a row nothing to choose from.
    """

    tokens: list[int]
    is_valid: list[bool]


class Sampler:
    """Reads the rows' tokens and parameters from the batch state, and changes nothing there."""

    def __init__(self, state: BatchState, ops: Ops) -> None:
        self._state = state
        self._ops = ops

    def choose(self, logits: Tensor, slots: NDArray[np.int64]) -> Sampled:
        """Choose one token for each row.

        Args:
            logits: [num_rows, vocab_size] float32; overwritten.
            slots: [num_rows], whose they are.
        """
        sampling = [self._state.sampling[slot] for slot in slots.tolist()]
        for row, (slot, params) in enumerate(zip(slots.tolist(), sampling, strict=True)):
            if _has_penalties(params):
                self._penalize(logits[row], slot, params)
            if self._state.num_output_tokens(slot) < params.min_tokens:
                logits[row, list(params.stop_token_ids)] = float("-inf")
        tokens, is_finite = self._ops.argmax(logits)
        is_valid: list[bool] = is_finite.tolist()
        random = [row for row, params in enumerate(sampling) if not params.is_greedy and is_valid[row]]
        if random:
            rows = torch.tensor(random, device=logits.device)
            how = self._sampling_tensors([sampling[row] for row in random], slots[random], logits.device)
            tokens[rows] = self._ops.sample(logits if len(random) == len(sampling) else logits[rows], how)
        return Sampled(tokens.tolist(), is_valid)

    def _penalize(self, logits: Tensor, slot: int, params: SamplingParams) -> None:
        """Apply one row's penalties in place: repetition, then frequency and presence."""
        state = self._state
        known = state.tokens[slot, : state.num_tokens[slot]]
        if params.repetition_penalty != 1.0:
            seen = torch.from_numpy(np.unique(known).astype(np.int64)).to(logits.device)
            found = logits[seen]
            logits[seen] = torch.where(found > 0, found / params.repetition_penalty, found * params.repetition_penalty)
        output, counts = np.unique(known[state.num_prompt_tokens[slot] :], return_counts=True)
        penalties = counts * params.frequency_penalty + params.presence_penalty
        places = torch.from_numpy(output.astype(np.int64)).to(logits.device)
        logits[places] -= torch.from_numpy(penalties.astype(np.float32)).to(logits.device)

    def _sampling_tensors(
        self, sampling: list[SamplingParams], slots: NDArray[np.int64], device: torch.device
    ) -> SamplingTensors:
        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(params, name) for params in sampling], dtype=dtype, device=device)

        numbers = uniforms(self._state.seeds[slots], self._state.num_tokens[slots])
        return SamplingTensors(
            temperature=column("temperature", torch.float32),
            top_k=column("top_k", torch.int64),
            top_p=column("top_p", torch.float64),
            min_p=column("min_p", torch.float32),
            uniforms=torch.from_numpy(numbers).to(device),
        )


def _has_penalties(params: SamplingParams) -> bool:
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
