"""One worker as the scheduler sees it: whose its blocks and slots are, and which plans it has not answered."""

from bisect import bisect_left, insort
from collections import OrderedDict
from typing import NamedTuple

from scheduler_svc.paging.block_pool import BlockPool
from scheduler_svc.paging.prefix_cache import PrefixCache
from scheduler_svc.scheduling.pace import Pace
from scheduler_svc.scheduling.sequence import Phase, Sequence
from shared.cached_blocks import NOTHING_CACHED, CachedBlocks
from shared.ids import BlockId, Epoch, Slot, StepId, WorkerId
from shared.messages import WorkerCapabilities


class Row(NamedTuple):
    """What a plan asks for one slot.

    Attributes:
        samples: Whether the step samples a token.
        start: And `stop`: the positions it computes, half-open.
    """

    sequence: Sequence
    samples: bool
    start: int
    stop: int


class PlanRecord(NamedTuple):
    """What a plan in flight asked for, by slot."""

    rows: dict[int, Row]
    sent_at_s: float


def _order(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.order


class Worker:
    """Blocks, slots, running sequences and plans in flight of one worker. The only place that changes them.

    A worker executes its plans in order. So blocks may be handed out again as soon as their holder is gone, although a
    plan in flight still writes to them: the new holder's first plan comes later.

    Invariants, checked by `check`:
        - every running sequence has its own slot; a slot is free, running, or waiting to be told released;
        - a block's ref count is the number of block tables that hold it;
        - a partly filled block is in one block table only;
        - a cached block of a running sequence is cached under that sequence's hash.
    """

    def __init__(
        self,
        worker_id: WorkerId,
        capabilities: WorkerCapabilities,
        epoch: Epoch,
        cached: CachedBlocks = NOTHING_CACHED,
    ) -> None:
        self.worker_id = worker_id
        self.capabilities = capabilities
        self.block_size = capabilities.block_size
        self.prefix_cache = PrefixCache(cached)
        self.pool = BlockPool(capabilities.num_blocks, self.prefix_cache)
        self.pace = Pace()
        self.is_suspended = False
        self.running: list[Sequence] = []
        self.in_flight: OrderedDict[StepId, PlanRecord] = OrderedDict()
        self._last_step = StepId(epoch, 0)
        self._free_slots = [Slot(slot) for slot in reversed(range(capabilities.max_num_seqs))]
        self._released_slots: list[Slot] = []

    @property
    def may_plan(self) -> bool:
        """Whether another plan may be sent ahead of results."""
        return not self.is_suspended and len(self.in_flight) < self.capabilities.max_plans_in_flight

    @property
    def has_free_slot(self) -> bool:
        """Whether another sequence may run. A slot is reused in the plan that tells of its release."""
        running = len(self.running)
        return running < self.capabilities.max_num_seqs and running < self.capabilities.max_num_batched_tokens

    @property
    def has_released(self) -> bool:
        """Whether the worker holds rows that it does not know to be over."""
        return bool(self._released_slots)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens of running sequences' prompts that are still to be computed."""
        return sum(max(0, sequence.num_wanted_tokens - 1) for sequence in self.running)

    @property
    def num_held_slots(self) -> int:
        """Tokens that the held blocks could hold; a shared block counts once."""
        return (self.pool.num_blocks - self.pool.num_free) * self.block_size

    @property
    def num_unused_slots(self) -> int:
        """Those of them that no token has. They are in the last blocks of sequences, which nobody shares."""
        return sum(
            len(sequence.block_table) * self.block_size - sequence.num_computed_tokens for sequence in self.running
        )

    def match_prefix(self, sequence: Sequence) -> list[BlockId]:
        """Cached blocks of a sequence's beginning. At least its last known token is always left to compute."""
        if not self.capabilities.enable_prefix_caching or sequence.must_compute_prompt:
            return []
        num_full = (sequence.num_tokens - 1) // self.block_size
        return self.prefix_cache.match(sequence.block_hashes(num_full, self.block_size))

    def has_room(self, sequence: Sequence, prefix: list[BlockId]) -> bool:
        """Whether all known tokens of a waiting sequence fit, given what is cached of them."""
        if not self.has_free_slot or sequence.num_tokens >= self.capabilities.max_model_len:
            return False
        num_needed = -(-sequence.num_tokens // self.block_size) - len(prefix)
        num_taken_back = sum(1 for block in prefix if self.pool.ref_count(block) == 0)
        return num_needed <= self.pool.num_free - num_taken_back

    def place(self, sequence: Sequence, prefix: list[BlockId]) -> None:
        """Let a waiting sequence run, starting after its cached prefix.

        What the client is told to be cached is what was so at its first admission; recomputing after a preemption is
        no hit.
        """
        for block in prefix:
            self.pool.share(block)
        num_computed_tokens = len(prefix) * self.block_size
        if not sequence.was_admitted:
            sequence.num_cached_tokens = num_computed_tokens
        self._seat(sequence, list(prefix), num_computed_tokens)

    def can_fork(self) -> bool:
        """Whether a choice can branch off now."""
        return self.has_free_slot and self.pool.num_free > 0

    def fork(self, parent: Sequence, child: Sequence) -> tuple[BlockId, BlockId] | None:
        """Let a choice branch off before the last token of the prompt: full blocks are shared, a partial one is copied.

        Returns:
            The copy (source, destination) that the worker must make before the next step, if there is one.
        """
        num_shared_tokens = child.num_prompt_tokens - 1
        num_full = num_shared_tokens // self.block_size
        blocks = parent.block_table[:num_full]
        for block in blocks:
            self.pool.share(block)
        copy = None
        if num_shared_tokens % self.block_size:
            copy = (parent.block_table[num_full], self._allocate())
            blocks.append(copy[1])
        child.num_cached_tokens = parent.num_cached_tokens
        self._seat(child, blocks, num_shared_tokens)
        return copy

    def num_tokens_that_fit(self, sequence: Sequence) -> int:
        """Tokens a running sequence could compute with its own and all free blocks."""
        num_blocks = len(sequence.block_table) + self.pool.num_free
        return num_blocks * self.block_size - sequence.num_computed_tokens

    def grow(self, sequence: Sequence, num_tokens: int) -> list[BlockId]:
        """Append the blocks that `num_tokens` more computed tokens need, and return them."""
        table = sequence.block_table
        missing = -(-(sequence.num_computed_tokens + num_tokens) // self.block_size) - len(table)
        if missing <= 0:
            return []
        appended = [self._allocate() for _ in range(missing)]
        table.extend(appended)
        return appended

    def publish(self, sequence: Sequence) -> None:
        """Enter the sequence's full blocks of known tokens, once a plan computes them, into the prefix cache."""
        num_full = min(sequence.num_computed_tokens, sequence.num_tokens) // self.block_size
        if num_full <= sequence.num_published_blocks or not self.capabilities.enable_prefix_caching:
            return
        hashes = sequence.block_hashes(num_full, self.block_size)
        for index in range(sequence.num_published_blocks, num_full):
            self.prefix_cache.publish(hashes[index], sequence.block_table[index])
        sequence.num_published_blocks = num_full

    def displace(self, sequence: Sequence, phase: Phase) -> None:
        """Take slot and blocks from a running sequence. Its last block becomes free first."""
        for block in reversed(sequence.block_table):
            self.pool.release(block, is_cached=block in self.prefix_cache)
        del self.running[bisect_left(self.running, sequence.order, key=_order)]
        self._released_slots.append(sequence.slot)
        sequence.displace(phase)

    def take_released(self) -> list[Slot]:
        """Slots the next plan must tell of; they are free from then on."""
        released, self._released_slots = self._released_slots, []
        self._free_slots.extend(reversed(released))
        return released

    def send(self, record: PlanRecord) -> StepId:
        """Count a plan as in flight and give it its id."""
        self._last_step = self._last_step.next()
        self.in_flight[self._last_step] = record
        return self._last_step

    def stalled_s(self, *, now_s: float) -> float:
        """How long the oldest plan in flight has been unanswered."""
        record = next(iter(self.in_flight.values()), None)
        return now_s - record.sent_at_s if record else 0.0

    def check(self) -> None:
        """Assert the invariants."""
        self.pool.check()
        self.prefix_cache.check()
        slots = [sequence.slot for sequence in self.running] + self._free_slots + self._released_slots
        assert sorted(slots) == list(range(self.capabilities.max_num_seqs))
        orders = [sequence.order for sequence in self.running]
        assert orders == sorted(orders)
        holders = [0] * self.pool.num_blocks
        for sequence in self.running:
            assert sequence.phase is Phase.RUNNING
            sequence.check(self.block_size)
            for block in sequence.block_table:
                holders[block] += 1
            hashes = sequence.block_hashes(sequence.num_published_blocks, self.block_size)
            for block_hash, block in zip(hashes, sequence.block_table, strict=False):
                assert block not in self.prefix_cache or self.prefix_cache.match([block_hash]) == [block]
        assert holders == [self.pool.ref_count(BlockId(block)) for block in range(self.pool.num_blocks)]
        for sequence in self.running:
            if sequence.num_computed_tokens % self.block_size:
                assert holders[sequence.block_table[-1]] == 1

    def _allocate(self) -> BlockId:
        block = self.pool.allocate()
        self.prefix_cache.forget(block)
        return block

    def _seat(self, sequence: Sequence, blocks: list[BlockId], num_computed_tokens: int) -> None:
        # Slots released but not yet told of may be given again: a plan frees rows before it admits any.
        slot = self._free_slots.pop() if self._free_slots else None
        assert slot is not None, "take_released comes first in every plan"
        num_published = num_computed_tokens // self.block_size
        sequence.place(
            self.worker_id, slot, blocks=blocks, num_computed_tokens=num_computed_tokens, num_published=num_published
        )
        sequence.bound_output(self.capabilities.max_model_len)
        sequence.was_admitted = True
        insort(self.running, sequence, key=_order)
