"""A model's steps, some of which are captured.

Where the device can, a step in which every sequence computes one token is noted once for each number of sequences and
repeated from then on, without Python between its ops. Where it can pad (GPUs), that is done before the first step, for
some numbers, and a smaller batch takes the next larger one. Every other step (prompts, chunks) is computed op by op.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_worker.batch_buckets import bucket_of
from gpu_worker.kv_cache import KVCache
from gpu_worker.models.decoder import Decoder
from gpu_worker.models.model import Model
from gpu_worker.models.rotary import Rotation
from gpu_worker.step_input import StepInput
from kernels.arguments import PagedBatch

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

_PADDING_SLOT = -1


@dataclass(frozen=True, slots=True)
class _CapturedStep:
    """One captured step, and the tensors that it reads: the next step's numbers are put there."""

    step: StepInput
    rotations: tuple[Rotation, ...]
    repeat: Callable[[], Tensor]


class CapturedSteps:
    """Computes the steps of one model on one cache."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        capture: Capture | None,
        *,
        max_blocks: int,
        block_size: int,
        device: torch.device,
        buckets: Sequence[int] | None = None,
    ) -> None:
        """Capture nothing yet.

        Args:
            model: Whose steps; captured if it is a decoder that can be.
            cache: That the model reads and writes.
            capture: Of the ops, see `Ops.capture`.
            max_blocks: Of one sequence.
            block_size: Tokens of a block.
            device: Where the model is.
            buckets: Numbers of sequences, ascending, to which others are padded; None where steps cannot be padded.
        """
        self._model = model
        self._cache = cache
        self._capture = capture if isinstance(model, Decoder) and model.can_be_captured else None
        self._max_blocks = max_blocks
        self._block_size = block_size
        self._device = device
        self._buckets = buckets
        self._captured: dict[int, _CapturedStep] = {}

    def prepare(self) -> int:
        """Capture a step for each bucket; returns how many. The largest comes first: the others fit into its memory."""
        if self._capture is not None:
            for size in reversed(self._buckets or ()):
                self._captured[size] = self._note(self._capture, self._empty(size))
        return len(self._captured)

    def hidden_states(self, step: StepInput) -> Tensor:
        """As `Model.hidden_states`. The numbers are valid until the next step."""
        num_seqs = len(step.token_ids)
        size = num_seqs if self._buckets is None else bucket_of(num_seqs, self._buckets)
        if self._capture is None or not step.is_decode or size is None:
            return self._model.hidden_states(step, self._cache)
        if (captured := self._captured.get(size)) is None:
            own = self._empty(size)
            _copy(step, own)
            captured = self._captured[size] = self._note(self._capture, own)
        _copy(step, captured.step)
        self._decoder.rotary.at(captured.step.positions, out=captured.rotations)
        return captured.repeat()[:num_seqs]

    @property
    def _decoder(self) -> Decoder:
        assert isinstance(self._model, Decoder), "no other model is captured"
        return self._model

    def _note(self, capture: Capture, own: StepInput) -> _CapturedStep:
        rotations = self._decoder.rotary.at(own.positions)
        repeat = capture(lambda: self._decoder.layers(own, rotations, self._cache))
        return _CapturedStep(own, rotations, repeat)

    def _empty(self, num_seqs: int) -> StepInput:
        """A step of nothing but padding, with tensors for any step of up to so many sequences."""

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=self._device)

        return StepInput(
            token_ids=zeros(num_seqs, dtype=torch.int64),
            positions=zeros(num_seqs, dtype=torch.int64),
            slots=torch.full((num_seqs,), _PADDING_SLOT, dtype=torch.int64, device=self._device),
            batch=PagedBatch(
                query_start=zeros(num_seqs + 1, dtype=torch.int32),
                context_lens=zeros(num_seqs, dtype=torch.int32),
                block_tables=zeros(num_seqs, self._max_blocks, dtype=torch.int32),
                block_size=self._block_size,
                is_decode=True,
            ),
            sampled_rows=zeros(num_seqs, dtype=torch.int64),
            sampled_slots=np.zeros(num_seqs, np.int64),
        )


def _copy(step: StepInput, to: StepInput) -> None:
    """Put a step's numbers where they are read; sequences behind them compute no token, and write none."""
    num_seqs, tables = len(step.token_ids), step.batch.block_tables
    to.token_ids[:num_seqs].copy_(step.token_ids)
    to.positions[:num_seqs].copy_(step.positions)
    to.slots[:num_seqs].copy_(step.slots)
    to.batch.context_lens[:num_seqs].copy_(step.batch.context_lens)
    to.batch.query_start[: num_seqs + 1].copy_(step.batch.query_start)
    to.batch.block_tables[:num_seqs, : tables.shape[1]].copy_(tables)
    if num_seqs < len(to.token_ids):
        to.slots[num_seqs:] = _PADDING_SLOT
        to.batch.query_start[num_seqs + 1 :] = num_seqs
