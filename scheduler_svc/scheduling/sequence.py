"""The mutable life of one choice of one request, as the scheduler sees it."""

from array import array
from enum import Enum

from scheduler_svc.accounting.work_done import WorkDone
from scheduler_svc.paging.prefix_cache import chain_hash, root_hash
from scheduler_svc.scheduling.progress import Progress
from shared.cached_blocks import BlockHash
from shared.ids import BlockId, GatewayId, Handle, RequestId, Slot, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.messages import Submit
from shared.packing import pack_u32, unpack_u32
from shared.sampling import Pooling


class Phase(Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    """In the waiting queue."""
    FORKING = "forking"
    """Waits for choice 0 to have computed the prompt that they share."""
    RUNNING = "running"
    """Holds a slot and blocks of one worker."""
    FINISHED = "finished"


class Sequence:
    """Tokens known, tokens computed, and what is held at a worker.

    There is no prefill and no decode: a sequence has tokens whose keys and values are computed (`num_computed_tokens`)
    and tokens that could be, and the scheduler closes the gap. Both counts include the plans in flight: a plan that
    reaches the last token adds one more, not known yet (`num_sampling`).

        tokens   [ prompt ............ | output ...... ]( in flight )
                 [ num_computed_tokens ........ [ num_wanted_tokens )
        blocks   [ b0 ][ b1 ][ b2 ][ b3 ][ b4 ]

    Invariants, checked by `check`:
        - 0 <= num_computed_tokens <= num_tokens + num_sampling;
        - the block table covers exactly the computed tokens: ceil(num_computed_tokens / block_size) blocks;
        - a sequence holds a slot and blocks if and only if it runs.
    """

    __slots__ = (
        "_block_hashes", "_max_output_tokens", "_salt", "block_table", "choice", "gateway_id", "handle", "is_kept",
        "num_cached_tokens", "num_computed_tokens", "num_kept_tokens", "num_plans_in_flight", "num_prompt_tokens",
        "num_published_blocks", "num_sampling", "num_taken_tokens", "order", "phase", "request_id", "sampling", "slot",
        "tokens", "was_admitted", "work", "worker_id",
    )  # fmt: skip

    def __init__(self, submit: Submit, choice: int, *, order: int, output: tuple[int, ...] = ()) -> None:
        self.request_id: RequestId = submit.request_id
        self.gateway_id: GatewayId = submit.gateway_id
        self.handle = Handle(submit.handle + choice)
        self.choice = choice
        self.sampling = submit.sampling
        self.order = (submit.priority, submit.arrived_ms, order)
        self.phase = Phase.WAITING

        self.tokens: array[int] = unpack_u32(submit.prompt)
        self.num_prompt_tokens = len(self.tokens)
        self.tokens.extend(output)
        self._max_output_tokens = submit.sampling.max_tokens
        self._salt = submit.cache_salt
        self._block_hashes: list[BlockHash] = []

        self.worker_id: WorkerId | None = None
        self.slot = Slot(0)
        self.block_table: list[BlockId] = []
        self.num_computed_tokens = 0
        self.num_sampling = 0
        self.num_plans_in_flight = 0
        self.num_published_blocks = 0
        self.num_cached_tokens = 0
        self.num_kept_tokens = 0
        self.is_kept = False
        self.num_taken_tokens: int | None = None
        self.was_admitted = bool(output)
        self.work = WorkDone()

    @classmethod
    def resume(cls, submit: Submit, choice: int, *, order: int, progress: Progress) -> "Sequence":
        """Begin where an earlier leader's plans ended, or at the beginning."""
        sequence = cls(submit, choice, order=order, output=progress.output)
        sequence.num_kept_tokens = progress.num_kept_tokens
        sequence.is_kept = progress.num_kept_tokens > 0
        if progress.output:
            num_shared_tokens = sequence.num_prompt_tokens - 1
            sequence.num_cached_tokens = progress.num_cached_tokens
            sequence.work.resume(sequence.num_tokens, num_shared_tokens if choice else progress.num_cached_tokens)
        return sequence

    def successor(self, submit: Submit, output: tuple[int, ...]) -> "Sequence":
        """The same choice behind another output. What it has cost so far still counts."""
        sequence = Sequence(submit, self.choice, order=self.order[-1], output=output)
        sequence.num_cached_tokens = self.num_cached_tokens
        sequence.work = self.work
        return sequence

    @property
    def address(self) -> OutputAddress:
        """Where its tokens go."""
        return OutputAddress(self.gateway_id, self.handle)

    @property
    def priority(self) -> int:
        """Lower runs first."""
        return self.order[0]

    @property
    def num_tokens(self) -> int:
        """Tokens known: the prompt and the committed output."""
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        """Committed output tokens."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_unkept_tokens(self) -> int:
        """Committed output tokens that only logs hold."""
        return len(self.tokens) - self.num_prompt_tokens - self.num_kept_tokens

    @property
    def num_delivered_tokens(self) -> int:
        """Output tokens that the client was given: as many as its gateway said when it ended this, or all of them."""
        return self.num_output_tokens if self.num_taken_tokens is None else self.num_taken_tokens

    @property
    def is_finished(self) -> bool:
        """Whether the one terminal event has happened."""
        return self.phase is Phase.FINISHED

    @property
    def num_wanted_tokens(self) -> int:
        """Tokens that the next plan could compute; 0 once all output that may be sampled is under way."""
        if self.num_output_tokens + self.num_sampling >= self._max_output_tokens:
            return 0
        return len(self.tokens) + self.num_sampling - self.num_computed_tokens

    @property
    def is_prompt_shareable(self) -> bool:
        """Whether all of the prompt that a fork shares (all but its last token) is computed or in flight."""
        return self.phase is Phase.RUNNING and self.num_computed_tokens >= self.num_prompt_tokens - 1

    @property
    def must_compute_prompt(self) -> bool:
        """Whether a cached prefix is of no use, since something of each prompt token is still to be told."""
        is_asked = self.sampling.prompt_logprobs is not None or self.sampling.pooling is Pooling.MEAN
        return is_asked and self.choice == 0 and not self.num_output_tokens

    def bound_output(self, max_model_len: int) -> None:
        """Let the output end where the worker's context does."""
        self._max_output_tokens = min(self.sampling.max_tokens, max_model_len - self.num_prompt_tokens)

    def block_hashes(self, num_blocks: int, block_size: int) -> list[BlockHash]:
        """The chain of the first `num_blocks` full blocks of known tokens."""
        hashes = self._block_hashes
        while len(hashes) < num_blocks:
            start = len(hashes) * block_size
            parent = hashes[-1] if hashes else root_hash(self._salt)
            hashes.append(chain_hash(parent, pack_u32(self.tokens[start : start + block_size])))
        return hashes[:num_blocks]

    def place(
        self, worker_id: WorkerId, slot: Slot, *, blocks: list[BlockId], num_computed_tokens: int, num_published: int
    ) -> None:
        """Start (or start again) on a worker, with what its cache already holds."""
        assert self.phase is not Phase.RUNNING
        assert self.num_plans_in_flight == 0
        self.phase = Phase.RUNNING
        self.worker_id = worker_id
        self.slot = slot
        self.block_table = blocks
        self.num_computed_tokens = num_computed_tokens
        self.num_published_blocks = num_published
        self.num_sampling = 0
        self.work.pass_over(num_computed_tokens)

    def displace(self, phase: Phase) -> None:
        """Hold nothing any more. Its results in flight still count."""
        self.phase = phase
        self.block_table = []
        self.num_computed_tokens = 0
        self.num_published_blocks = 0
        self.num_sampling = 0

    def keep_output(self) -> OutputPart:
        """The part of the output that only logs hold. From now on it counts as kept."""
        start = self.num_kept_tokens
        tokens = self.tokens[self.num_prompt_tokens + start :]
        self.num_kept_tokens, self.is_kept = self.num_output_tokens, True
        return OutputPart.of(self.address, start, tokens, is_ended=self.is_finished)

    def has_output(self, told: tuple[int, ...]) -> bool:
        """Whether the committed output begins with what a client was told."""
        start = self.num_prompt_tokens
        return tuple(self.tokens[start : start + len(told)]) == told

    def schedule(self, num_tokens: int) -> bool:
        """Count tokens as computed by a plan that is about to be sent; say whether it samples."""
        self.num_computed_tokens += num_tokens
        self.num_plans_in_flight += 1
        if self.num_computed_tokens < len(self.tokens) + self.num_sampling:
            return False
        self.num_sampling += 1
        return True

    def check(self, block_size: int) -> None:
        """Assert the invariants."""
        assert 0 <= self.num_computed_tokens <= self.num_tokens + self.num_sampling
        assert len(self.block_table) == -(-self.num_computed_tokens // block_size)
        assert (self.phase is Phase.RUNNING) or not self.block_table
        assert self.num_sampling <= self.num_plans_in_flight
        assert self.num_unkept_tokens >= 0
        assert self.num_published_blocks * block_size <= self.num_computed_tokens
