"""Fills one step: who computes how many tokens, within one token budget.

Sequences that want one token come first, so that nobody's stream waits for another's prompt; then prompts, in chunks
of what is left (Sarathi-Serve, Agrawal et al. 2024); then newcomers, until the step is as large as is efficient: a
prompt that would only make it longer is begun in the next one, and those before it have their first tokens earlier.
When blocks run out the youngest sequence that is not yet in the step is preempted: it is released, and later admitted
afresh with its output so far. So is one that holds the place of a sequence of a higher priority.
"""

from collections.abc import Callable, Iterable
from itertools import chain

from scheduler_svc.scheduling.sequence import Phase, Sequence
from scheduler_svc.scheduling.worker import PlanRecord, Row, Worker
from shared.ids import BlockId, Slot, WorkerId
from shared.messages import Admitted, StepPlan
from shared.packing import pack_u16, pack_u32

MAX_LOOKED_PAST = 32
"""Waiting sequences that prefer another worker and are looked past in a step: each costs a prefix match per worker."""


class Batch:
    """One step of one worker in the making.

    Invariants: the tokens of all rows are within the budget; no sequence has two rows.

    Attributes:
        budget: Tokens that may still be added.
        preempted: Sequences released to make room; they wait again.
        is_short_of_blocks: Somebody got no row for want of blocks.
        num_prompt_tokens: Of sequences admitted for the first time.
        num_cached_tokens: Those of them found in the prefix cache.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.budget = worker.capabilities.max_num_batched_tokens
        self.preempted: list[Sequence] = []
        self.is_short_of_blocks = False
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self._num_chunk_tokens = 0
        self._released = worker.take_released()
        self._rows: dict[int, Row] = {}
        self._num_tokens: list[int] = []
        self._newcomers: dict[Slot, tuple[Sequence, int]] = {}
        self._appended_slots: list[int] = []
        self._appended_blocks: list[int] = []
        self._copies: list[int] = []

    @property
    def is_empty(self) -> bool:
        """Whether a plan of this batch would tell the worker nothing."""
        return not self._rows and not self._released

    @property
    def is_efficient(self) -> bool:
        """Whether another prompt would make the step only longer, see `WorkerCapabilities.num_efficient_tokens`."""
        num_efficient_tokens = self.worker.capabilities.num_efficient_tokens
        return num_efficient_tokens is not None and self._num_chunk_tokens >= num_efficient_tokens

    def has_row(self, sequence: Sequence) -> bool:
        """Whether a running sequence computes something in this step."""
        return sequence.slot in self._rows

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Let a running sequence compute `num_tokens`, for which there are blocks."""
        slot = sequence.slot
        assert not self.has_row(sequence)
        assert num_tokens <= self.budget
        appended = self.worker.grow(sequence, num_tokens)
        if appended and slot not in self._newcomers:
            self._appended_slots.extend([slot] * len(appended))
            self._appended_blocks.extend(appended)
        start = sequence.num_computed_tokens
        self._rows[slot] = Row(sequence, sequence.schedule(num_tokens), start, start + num_tokens)
        self._num_tokens.append(num_tokens)
        self.budget -= num_tokens
        if num_tokens > 1:
            self._num_chunk_tokens += num_tokens

    def admit(self, sequence: Sequence, num_tokens: int) -> None:
        """Let a sequence that was just placed compute its first tokens in this step."""
        self._newcomers[sequence.slot] = (sequence, sequence.num_computed_tokens)
        self.add(sequence, num_tokens)

    def admit_from_cache(self, sequence: Sequence) -> None:
        """Place a waiting sequence after what is cached of it, and let it compute what the budget allows."""
        is_new = not sequence.was_admitted
        self.worker.place(sequence, self.worker.match_prefix(sequence))
        if is_new:
            self.num_prompt_tokens += sequence.num_prompt_tokens
            self.num_cached_tokens += sequence.num_cached_tokens
        self.admit(sequence, min(sequence.num_wanted_tokens, self.budget))

    def copy(self, source: BlockId, destination: BlockId) -> None:
        """Copy a block before the step computes anything."""
        self._copies += (source, destination)

    def preempt(self, victim: Sequence) -> None:
        """Release a running sequence that has no row."""
        assert not self.has_row(victim)
        self.worker.displace(victim, Phase.WAITING)
        self.preempted.append(victim)
        # Told in this very plan, so that its slot can be given to nobody who is admitted before the release.
        self._released += self.worker.take_released()

    def youngest_without_row(self) -> Sequence | None:
        """The last arrived sequence that wants tokens and has no row."""
        for sequence in reversed(self.worker.running):
            if not self.has_row(sequence) and sequence.num_wanted_tokens:
                return sequence
        return None

    def record(self, *, now_s: float) -> PlanRecord:
        """What is to be remembered until the result comes. Publishes the blocks that the step fills."""
        for row in self._rows.values():
            self.worker.publish(row.sequence)
        return PlanRecord(self._rows, now_s)

    def plan(self) -> StepPlan:
        """The message."""
        return StepPlan(
            released=pack_u16(self._released),
            admitted=tuple(_admitted(sequence, computed) for sequence, computed in self._newcomers.values()),
            appended_slots=pack_u16(self._appended_slots),
            appended_blocks=pack_u32(self._appended_blocks),
            copies=pack_u32(self._copies),
            slots=pack_u16(self._rows),
            num_tokens=pack_u32(self._num_tokens),
            cached=self.worker.prefix_cache.take_untold(),
        )


def _admitted(sequence: Sequence, num_computed_tokens: int) -> Admitted:
    return Admitted(
        slot=sequence.slot,
        request_id=sequence.request_id,
        choice=sequence.choice,
        gateway_id=sequence.gateway_id,
        handle=sequence.handle,
        tokens=pack_u32(sequence.tokens),
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_computed_tokens=num_computed_tokens,
        num_cached_tokens=sequence.num_cached_tokens,
        blocks=pack_u32(sequence.block_table),
        sampling=sequence.sampling,
    )


def fork_choices(batch: Batch, parent: Sequence, children: list[Sequence]) -> None:
    """Let choices branch off a parent whose prompt earlier plans compute. Those that do not fit try again later."""
    worker = batch.worker
    if parent.worker_id != worker.worker_id or not parent.is_prompt_shareable:
        return
    for child in children:
        if not batch.budget or not worker.can_fork():
            return
        copy = worker.fork(parent, child)
        if copy:
            batch.copy(*copy)
        batch.admit(child, 1)


def give_way(batch: Batch, waiting: Iterable[Sequence], choose: Callable[[Sequence], WorkerId | None]) -> None:
    """Preempt running sequences of a lower priority, the last first, until the first that waits finds a place."""
    first = next(iter(waiting), None)
    running = batch.worker.running
    while first is not None and running and running[-1].priority > first.priority and choose(first) is None:
        if batch.has_row(running[-1]):
            return
        batch.preempt(running[-1])


def schedule_running(batch: Batch) -> None:
    """Give rows to running sequences: decodes first, then chunks of prompts, each oldest first."""
    decodes: list[Sequence] = []
    prompts: list[Sequence] = []
    for sequence in batch.worker.running:
        num_wanted_tokens = sequence.num_wanted_tokens
        if num_wanted_tokens:
            (decodes if num_wanted_tokens == 1 else prompts).append(sequence)
    for sequence in chain(decodes, prompts):
        if not batch.budget:
            return
        if sequence.phase is Phase.RUNNING and not batch.has_row(sequence):
            num_tokens = _make_room(batch, sequence, min(sequence.num_wanted_tokens, batch.budget))
            if num_tokens:
                batch.add(sequence, num_tokens)


def _make_room(batch: Batch, sequence: Sequence, num_tokens: int) -> int:
    """How many of `num_tokens` find blocks, after preempting younger sequences if none would."""
    while (num_fitting := batch.worker.num_tokens_that_fit(sequence)) < 1:
        victim = batch.youngest_without_row()
        if victim is None or victim is sequence:
            # Everybody younger has a row or is gone. Older ones will end, and nobody is admitted meanwhile.
            batch.is_short_of_blocks = True
            return 0
        batch.preempt(victim)
    return min(num_tokens, num_fitting)


def admit_waiting(
    batch: Batch, waiting: Iterable[Sequence], choose: Callable[[Sequence], WorkerId | None]
) -> list[Sequence]:
    """Admit newcomers in order, as long as it is efficient, blocks last and nobody had to give way; returns them."""
    admitted: list[Sequence] = []
    if batch.preempted or batch.is_short_of_blocks:
        return admitted
    num_looked_past = 0
    for sequence in waiting:
        is_full = not batch.budget or batch.is_efficient or not batch.worker.has_free_slot
        if is_full or num_looked_past == MAX_LOOKED_PAST or sequence.num_plans_in_flight:
            break
        chosen = choose(sequence)
        if chosen is None:
            break
        if chosen == batch.worker.worker_id:
            batch.admit_from_cache(sequence)
            admitted.append(sequence)
        else:
            num_looked_past += 1
    return admitted
