"""A model's steps, some of which are captured.

Where the device can, a step in which every sequence computes one token is noted once for each number of sequences and
repeated from then on, without Python between its ops. Every other step (prompts, chunks) is computed op by op.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.kv_cache import KVCache
from gpu_worker.models.decoder import Decoder
from gpu_worker.models.model import Model
from gpu_worker.models.rotary import Rotation
from gpu_worker.step_input import StepInput
from kernels.arguments import PagedBatch

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


@dataclass(frozen=True, slots=True)
class _CapturedStep:
    """One captured step, and the tensors that it reads: the next step's numbers are put there."""

    step: StepInput
    rotations: tuple[Rotation, ...]
    repeat: Callable[[], Tensor]


class CapturedSteps:
    """Computes the steps of one model on one cache."""

    def __init__(self, model: Model, cache: KVCache, capture: Capture | None, *, max_blocks: int) -> None:
        """Capture nothing yet.

        Args:
            model: Whose steps; captured if it is a decoder that can be.
            cache: That the model reads and writes.
            capture: Of the ops, see `Ops.capture`.
            max_blocks: Of one sequence.
        """
        self._model = model
        self._cache = cache
        self._capture = capture if isinstance(model, Decoder) and model.can_be_captured else None
        self._max_blocks = max_blocks
        self._captured: dict[int, _CapturedStep] = {}

    def hidden_states(self, step: StepInput) -> Tensor:
        """As `Model.hidden_states`. The numbers are valid until the next step."""
        if self._capture is None or not step.is_decode:
            return self._model.hidden_states(step, self._cache)
        num_seqs = len(step.token_ids)
        if (captured := self._captured.get(num_seqs)) is None:
            captured = self._captured[num_seqs] = self._note(self._capture, step)
        self._put(step, captured)
        return captured.repeat()

    @property
    def _decoder(self) -> Decoder:
        assert isinstance(self._model, Decoder), "no other model is captured"
        return self._model

    def _note(self, capture: Capture, step: StepInput) -> _CapturedStep:
        own = _like(step, max_blocks=self._max_blocks)
        rotations = self._decoder.rotary.at(own.positions)
        _copy(step, own)
        repeat = capture(lambda: self._decoder.layers(own, rotations, self._cache))
        return _CapturedStep(own, rotations, repeat)

    def _put(self, step: StepInput, captured: _CapturedStep) -> None:
        _copy(step, captured.step)
        self._decoder.rotary.at(step.positions, out=captured.rotations)


def _like(step: StepInput, *, max_blocks: int) -> StepInput:
    """Tensors for any step of as many sequences."""
    num_seqs = len(step.token_ids)
    batch = step.batch
    return StepInput(
        token_ids=torch.zeros_like(step.token_ids),
        positions=torch.zeros_like(step.positions),
        slots=torch.zeros_like(step.slots),
        batch=PagedBatch(
            query_start=batch.query_start.clone(),
            context_lens=torch.zeros_like(batch.context_lens),
            block_tables=batch.block_tables.new_zeros(num_seqs, max_blocks),
            block_size=batch.block_size,
        ),
        sampled_rows=torch.zeros_like(step.token_ids),
        sampled_slots=np.zeros(num_seqs, np.int64),
    )


def _copy(step: StepInput, to: StepInput) -> None:
    to.token_ids.copy_(step.token_ids)
    to.slots.copy_(step.slots)
    to.batch.context_lens.copy_(step.batch.context_lens)
    tables = step.batch.block_tables
    to.batch.block_tables[:, : tables.shape[1]].copy_(tables)
