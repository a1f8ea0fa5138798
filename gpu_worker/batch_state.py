"""What a worker knows of its running sequences: one permanent row per slot, in arrays that are allocated once.

`apply` takes a plan's changes, `advance`, `commit` and `fail` a step's outcome. Nothing else changes a row.

Invariants, tested by `check`: a row computes only tokens it knows, into blocks it has; a free row knows nothing.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import PlanError
from shared.ids import Slot
from shared.messages import Admitted, StepPlan
from shared.packing import unpack_u16, unpack_u32
from shared.sampling import FinishCode, SamplingParams


class RowStatus(IntEnum):
    """What a row is to the worker."""

    FREE = 0
    RUNNING = 1
    FINISHED = 2
    """It has got its last token, and waits to be released."""


class Work(NamedTuple):
    """Who computes in a step.

    Attributes:
        slots: [num_seqs] int64.
        num_tokens: [num_seqs] int64, at least 1 each.
    """

    slots: NDArray[np.int64]
    num_tokens: NDArray[np.int64]


class BatchState:
    """The rows. The scheduler holds a replica of their lengths; the tokens are the worker's.

    Attributes:
        tokens: [max_num_seqs, max_model_len] int32, prompt and output.
        block_tables: [max_num_seqs, max_blocks] int32.
        num_tokens: [max_num_seqs], tokens known.
        num_prompt_tokens: [max_num_seqs], how many of them are prompt.
        num_computed: [max_num_seqs], how many of them have keys and values in the cache.
        num_blocks: [max_num_seqs], length of each block table.
        status: [max_num_seqs] of `RowStatus`.
        seeds: [max_num_seqs] uint64, each choice's own.
        num_logprobs: [max_num_seqs], likeliest tokens told beside each output token; -1 where nothing is told.
        num_prompt_logprobs: [max_num_seqs], the same for the tokens of the prompt.
        sampling: Parameters by slot; those of a free row are of no meaning.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_model_len: int,
        max_num_batched_tokens: int,
        block_size: int,
        num_blocks: int,
        vocab_size: int,
    ) -> None:
        self.block_size = block_size
        self._max_model_len = max_model_len
        self._max_num_batched_tokens = max_num_batched_tokens
        self._num_cache_blocks = num_blocks
        self._vocab_size = vocab_size
        self.tokens = np.zeros((max_num_seqs, max_model_len), np.int32)
        self.block_tables = np.zeros((max_num_seqs, -(-max_model_len // block_size)), np.int32)
        self.num_tokens = np.zeros(max_num_seqs, np.int64)
        self.num_prompt_tokens = np.zeros(max_num_seqs, np.int64)
        self.num_computed = np.zeros(max_num_seqs, np.int64)
        self.num_blocks = np.zeros(max_num_seqs, np.int64)
        self.status = np.full(max_num_seqs, RowStatus.FREE, np.uint8)
        self.seeds = np.zeros(max_num_seqs, np.uint64)
        self.num_logprobs = np.full(max_num_seqs, -1, np.int64)
        self.num_prompt_logprobs = np.full(max_num_seqs, -1, np.int64)
        self.sampling = [SamplingParams()] * max_num_seqs

    def apply(self, plan: StepPlan) -> Work:
        """Take a plan's changes.

        Returns:
            The rows that compute; finished ones are left out.

        Raises:
            PlanError: the plan contradicts this state, which is then of no further use.
        """
        for slot in unpack_u16(plan.released):
            self._release(slot)
        for admitted in plan.admitted:
            self._admit(admitted)
        appended_slots, appended_blocks = unpack_u16(plan.appended_slots), unpack_u32(plan.appended_blocks)
        if len(appended_slots) != len(appended_blocks):
            raise PlanError(f"{len(appended_slots)} rows get {len(appended_blocks)} blocks")
        for slot, block in zip(appended_slots, appended_blocks, strict=True):
            self._append_block(slot, block)
        self.check_blocks(np.array(unpack_u32(plan.copies), np.int64))
        return self._work(plan)

    def advance(self, work: Work) -> None:
        """Note that this work has been done."""
        self.num_computed[work.slots] += work.num_tokens

    def commit(self, slot: int, token: int, *, is_complete: bool = False) -> FinishCode:
        """Append a sampled token, and say whether it is the row's last: its grammar may allow nothing more."""
        self.tokens[slot, self.num_tokens[slot]] = token
        self.num_tokens[slot] += 1
        sampling = self.sampling[slot]
        if token in sampling.stop_token_ids:
            finish = FinishCode.STOP
        elif is_complete:
            finish = FinishCode.COMPLETE
        elif self.num_output_tokens(slot) >= sampling.max_tokens or self.num_tokens[slot] >= self._max_model_len:
            finish = FinishCode.LENGTH
        else:
            return FinishCode.RUNNING
        self.status[slot] = RowStatus.FINISHED
        return finish

    def fail(self, slot: int) -> None:
        """Finish a row that cannot go on."""
        self.status[slot] = RowStatus.FINISHED

    def num_output_tokens(self, slot: int) -> int:
        """Tokens this row has beyond its prompt."""
        return int(self.num_tokens[slot] - self.num_prompt_tokens[slot])

    def clear(self) -> None:
        """Forget every row."""
        for slot in np.flatnonzero(self.status != RowStatus.FREE).tolist():
            self._release(slot)

    def check_blocks(self, blocks: NDArray[np.int64]) -> None:
        """Whether these blocks exist.

        Raises:
            PlanError: one does not.
        """
        if blocks.size and int(blocks.max()) >= self._num_cache_blocks:
            raise PlanError(f"block {int(blocks.max())} of a cache of {self._num_cache_blocks}")

    def check(self) -> None:
        """Test the invariants.

        Raises:
            AssertionError: one is broken: a bug of ours.
        """
        free = self.status == RowStatus.FREE
        counts = np.stack((self.num_tokens, self.num_prompt_tokens, self.num_computed, self.num_blocks))
        assert not counts[:, free].any()
        assert (self.num_prompt_tokens <= self.num_tokens).all()
        assert (self.num_computed <= self.num_tokens).all()
        assert (self.num_computed <= self.num_blocks * self.block_size).all()

    def _require_row(self, slot: int) -> None:
        if slot >= len(self.status) or self.status[slot] == RowStatus.FREE:
            raise PlanError(f"slot {slot} holds no sequence")

    def _release(self, slot: int) -> None:
        self._require_row(slot)
        self.status[slot] = RowStatus.FREE
        for counts in (self.num_tokens, self.num_prompt_tokens, self.num_computed, self.num_blocks):
            counts[slot] = 0

    def _admit(self, admitted: Admitted) -> None:
        slot: Slot = admitted.slot
        if slot >= len(self.status) or self.status[slot] != RowStatus.FREE:
            raise PlanError(f"{admitted.request_id} is given slot {slot}, which is not free")
        tokens = np.array(unpack_u32(admitted.tokens), np.int64)
        blocks = np.array(unpack_u32(admitted.blocks), np.int64)
        if not 1 <= admitted.num_prompt_tokens <= len(tokens) < self._max_model_len:
            raise PlanError(
                f"{admitted.request_id} has {len(tokens)} tokens, {admitted.num_prompt_tokens} of them prompt; "
                f"a sequence has at most {self._max_model_len}, the next one included"
            )
        if not 0 <= admitted.num_computed_tokens < len(tokens):
            raise PlanError(
                f"{admitted.request_id} has computed {admitted.num_computed_tokens} of {len(tokens)} tokens"
            )
        if int(tokens.max()) >= self._vocab_size:
            raise PlanError(f"{admitted.request_id} holds token {int(tokens.max())} of {self._vocab_size}")
        if (
            not admitted.num_computed_tokens
            <= len(blocks) * self.block_size
            <= self.block_tables.shape[1] * self.block_size
        ):
            raise PlanError(f"{admitted.request_id} has {len(blocks)} blocks")
        self.check_blocks(blocks)
        self.status[slot] = RowStatus.RUNNING
        self.tokens[slot, : len(tokens)] = tokens
        self.block_tables[slot, : len(blocks)] = blocks
        self.num_tokens[slot] = len(tokens)
        self.num_prompt_tokens[slot] = admitted.num_prompt_tokens
        self.num_computed[slot] = admitted.num_computed_tokens
        self.num_blocks[slot] = len(blocks)
        self.sampling[slot] = admitted.sampling
        self.seeds[slot] = admitted.sampling.seed_of_choice(admitted.choice)
        self.num_logprobs[slot] = _count_or_none(admitted.sampling.logprobs)
        # With the first output token all of the prompt has been told; other choices have the same prompt.
        is_told = admitted.choice > 0 or len(tokens) > admitted.num_prompt_tokens
        self.num_prompt_logprobs[slot] = -1 if is_told else _count_or_none(admitted.sampling.prompt_logprobs)

    def _append_block(self, slot: int, block: int) -> None:
        self._require_row(slot)
        place = self.num_blocks[slot]
        if place >= self.block_tables.shape[1]:
            raise PlanError(f"slot {slot} gets block {place + 1} of {self.block_tables.shape[1]}")
        self.check_blocks(np.array([block]))
        self.block_tables[slot, place] = block
        self.num_blocks[slot] += 1

    def _work(self, plan: StepPlan) -> Work:
        slots = np.array(unpack_u16(plan.slots), np.int64)
        num_tokens = np.array(unpack_u32(plan.num_tokens), np.int64)
        if len(slots) != len(num_tokens) or len(np.unique(slots)) != len(slots):
            raise PlanError(
                f"{len(slots)} rows, {len(np.unique(slots))} of them different, and {len(num_tokens)} counts"
            )
        for slot in slots.tolist():
            self._require_row(slot)
        if num_tokens.sum() > self._max_num_batched_tokens:
            raise PlanError(f"{num_tokens.sum()} tokens in one step, at most {self._max_num_batched_tokens}")
        running = self.status[slots] == RowStatus.RUNNING
        work = Work(slots[running], num_tokens[running])
        reached = self.num_computed[work.slots] + work.num_tokens
        room = self.num_blocks[work.slots] * self.block_size
        wrong = (work.num_tokens < 1) | (reached > self.num_tokens[work.slots]) | (reached > room)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            slot = int(work.slots[row])
            raise PlanError(
                f"slot {slot} computes {work.num_tokens[row]} tokens after {self.num_computed[slot]}, "
                f"but knows {self.num_tokens[slot]} and has blocks for {room[row]}"
            )
        return work


def _count_or_none(count: int | None) -> int:
    return -1 if count is None else count
