"""Chooses the next token of each row that is up to date. Rows pay only for what their parameters ask for."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.batch_state import BatchState
from gpu_worker.logits_processors.pipeline import LogitsPipeline
from gpu_worker.logprobs import OutputLogprobs
from kernels.arguments import SamplingTensors
from kernels.ops import Ops
from kernels.philox import uniforms
from shared.messages import Logprobs, StepPlan
from shared.sampling import SamplingParams


class Sampled(NamedTuple):
    """The outcome, row by row.

    Attributes:
        tokens: [num_rows]; of no meaning where a row is not valid.
        is_valid: [num_rows]; False where the model gave a row nothing to choose from.
        logprobs: Of the chosen token, by row, for those rows that ask.
    """

    tokens: list[int]
    is_valid: list[bool]
    logprobs: Mapping[int, Logprobs]


class Sampler:
    """Reads the rows' parameters from the batch state, and changes nothing there. Owns what changes logits."""

    def __init__(self, state: BatchState, ops: Ops, pipeline: LogitsPipeline) -> None:
        self._state = state
        self._ops = ops
        self._pipeline = pipeline

    def apply(self, plan: StepPlan) -> None:
        """Take a plan's changes, after the batch state has."""
        self._pipeline.apply(plan)

    def commit(self, slot: int, token: int) -> None:
        """A row goes on with the token that was chosen for it."""
        self._pipeline.commit(slot, token)

    def clear(self) -> None:
        """Forget every row."""
        self._pipeline.clear()

    def choose(self, logits: Tensor, slots: NDArray[np.int64]) -> Sampled:
        """Choose one token for each row.

        Args:
            logits: [num_rows, vocab_size] float32; overwritten.
            slots: [num_rows], whose they are.
        """
        sampling = [self._state.sampling[slot] for slot in slots.tolist()]
        told = OutputLogprobs.of(self._state, logits, slots)
        self._pipeline.process(logits, slots)
        tokens, is_finite = self._ops.argmax(logits)
        is_valid: list[bool] = is_finite.tolist()
        random = [row for row, params in enumerate(sampling) if not params.is_greedy and is_valid[row]]
        if random:
            rows = torch.tensor(random, device=logits.device)
            how = self._sampling_tensors([sampling[row] for row in random], slots[random], logits.device)
            tokens[rows] = self._ops.sample(logits if len(random) == len(sampling) else logits[rows], how)
        chosen: list[int] = tokens.tolist()
        return Sampled(chosen, is_valid, told.told(chosen) if told else {})

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
