"""A runner without a model: token i of a sequence is a function of the request, and every plan is checked.

Whatever a scheduler, a bus or a gateway loses, repeats or reorders shows as a wrong token. Whatever a scheduler does
wrong with slots, blocks, prefix hits or copies raises PlanError at the step that does it, where a model would only talk
nonsense.
"""

from __future__ import annotations  # array[int] is a type from Python 3.12 on

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NoReturn

from gpu_worker.fake_embedding import fake_embedding
from gpu_worker.fake_logprobs import fake_logprobs
from gpu_worker.runner import PromptLogprobs, RowOutput, StepOutput
from kernels.roofline import StepLoad
from shared.errors import PlanError
from shared.ids import RequestId, Slot
from shared.messages import Admitted, StepPlan, WorkerCapabilities
from shared.packing import unpack_u16, unpack_u32
from shared.sampling import FinishCode, Pooling, SamplingParams

FIRST_FAKE_TOKEN = 64
"""Smaller ids are left out: tokenizers keep their special tokens there."""

Hazard = Callable[[RequestId, int, range, "array[int]"], None]
"""Called with request, choice, positions and tokens that a row is about to compute. May raise, or end the process."""

LengthRule = Callable[[RequestId, int], int]
"""Output tokens of (request, choice), its end-of-sequence token included."""


def fake_token(request_id: RequestId, choice: int, index: int, vocab_size: int) -> int:
    """Output token `index` of one choice of a request, in `[FIRST_FAKE_TOKEN, vocab_size)`."""
    digest = blake2b(f"{request_id}/{choice}/{index}".encode(), digest_size=6).digest()
    return FIRST_FAKE_TOKEN + int.from_bytes(digest, "little") % (vocab_size - FIRST_FAKE_TOKEN)


@dataclass(slots=True)
class FakeRow:
    """One running sequence. `history` sums up its computed tokens; until `verified`, its blocks may hold other ones.

    `tells_prompt` is the number of likeliest tokens told beside each token of the prompt, or None.
    """

    slot: Slot
    request_id: RequestId
    choice: int
    tokens: array[int]
    num_prompt_tokens: int
    num_computed: int
    blocks: array[int]
    sampling: SamplingParams
    tells_prompt: int | None
    history: int = 0
    verified: bool = False
    finished: bool = False

    @property
    def num_output_tokens(self) -> int:
        """Tokens beyond the prompt."""
        return len(self.tokens) - self.num_prompt_tokens


@dataclass(slots=True)
class _FakeCache:
    """What stands in each block: per position a hash of all tokens up to there, as keys and values depend on them all.

    A row's view of its blocks can change only by its own writes and by copies, because a block in two tables is never
    written. So a view is compared once after admission and once after each copy into it, and stays right in between.
    """

    num_blocks: int
    block_size: int
    check_content: bool
    holders: Counter[int] = field(default_factory=Counter)
    content: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        if self.check_content:
            self.content = array("q", [0]) * (self.num_blocks * self.block_size)

    def hold(self, row: FakeRow, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            _reject(f"slot {row.slot} is given block {block}, but there are only {self.num_blocks}")
        self.holders[block] += 1

    def release(self, row: FakeRow) -> None:
        self.holders.subtract(row.blocks)

    def copy(self, source: int, destination: int) -> None:
        if not (0 <= source < self.num_blocks and 0 <= destination < self.num_blocks):
            _reject(f"copy of block {source} to {destination}, but there are only {self.num_blocks}")
        if self.holders[destination] != 1:
            _reject(f"copy into block {destination}, which {self.holders[destination]} rows hold")
        if self.check_content:
            size, start = self.block_size, source * self.block_size
            self.content[destination * size : (destination + 1) * size] = self.content[start : start + size]

    def verify(self, row: FakeRow) -> None:
        """Compare what the row's table leads to with the row's own tokens, and leave its history up to date."""
        history = 0
        if self.check_content:
            for position in range(row.num_computed):
                history = hash((history, row.tokens[position]))
                block = row.blocks[position // self.block_size]
                if self.content[block * self.block_size + position % self.block_size] != history:
                    _reject(f"slot {row.slot} relies on block {block}, which does not hold its position {position}")
        row.history = history
        row.verified = True

    def write(self, row: FakeRow, count: int) -> None:
        """Compute the row's next `count` tokens into its blocks."""
        size, start = self.block_size, row.num_computed
        stop = start + count
        for index in range(start // size, (stop - 1) // size + 1):
            if self.holders[row.blocks[index]] != 1:
                _reject(f"slot {row.slot} writes to block {row.blocks[index]}, which another row holds too")
        if self.check_content:
            history = row.history
            for position in range(start, stop):
                history = hash((history, row.tokens[position]))
                self.content[row.blocks[position // size] * size + position % size] = history
            row.history = history
        row.num_computed = stop


class FakeRunner:
    """Implements `Runner` in pure Python, deterministically.

    A sequence ends with LENGTH at `max_tokens` or at the model's context. It ends with STOP only where `length` is
    given and its request has `stop_token_ids`: output token number `length(request_id, choice)` is then the first of
    those.

    Args:
        capabilities: What this runner claims to hold and compute; plans are held to it.
        length: Where sequences stop by themselves; None for never.
        vocab_size: Tokens are smaller than this.
        hazard: What some tokens do to whoever computes them, as a kernel may that meets what it was not made for.
        check_content: Whether to keep a record of what each block holds, and to compare. Costs most of the time of long
            prompts; the other checks are always made.
    """

    def __init__(
        self,
        capabilities: WorkerCapabilities,
        *,
        length: LengthRule | None = None,
        vocab_size: int = 32_000,
        hazard: Hazard | None = None,
        check_content: bool = True,
    ) -> None:
        self._capabilities = capabilities
        self._hazard = hazard
        self._length = length
        self._vocab_size = vocab_size
        self._cache = _FakeCache(capabilities.num_blocks, capabilities.block_size, check_content)
        self.reset()

    @property
    def capabilities(self) -> WorkerCapabilities:
        """What this runner can hold and compute."""
        return self._capabilities

    @property
    def load(self) -> StepLoad:
        """What a model would have computed in the last step."""
        return self._load

    def reset(self) -> None:
        """Forget every row. What blocks hold stays there."""
        self._rows: dict[int, FakeRow] = {}
        self._cache.holders.clear()
        self._load = StepLoad(0, 0, 0, 0)

    def step(self, plan: StepPlan) -> StepOutput:
        """Apply the plan, check it, and invent the next token of each row that is up to date.

        Raises:
            PlanError: the plan contradicts what this runner holds.
        """
        for slot in unpack_u16(plan.released):
            self._release(slot)
        for admitted in plan.admitted:
            self._admit(admitted)
        self._append(unpack_u16(plan.appended_slots), unpack_u32(plan.appended_blocks))
        self._copy(unpack_u32(plan.copies))
        work = self._work(unpack_u16(plan.slots), unpack_u32(plan.num_tokens))
        for row, _ in work:
            if not row.verified:
                self._cache.verify(row)
        told = [told for row, count in work if (told := self._tell_prompt(row, count))]
        for row, count in work:
            if self._hazard:
                positions = range(row.num_computed, row.num_computed + count)
                self._hazard(row.request_id, row.choice, positions, row.tokens[positions.start : positions.stop])
            self._cache.write(row, count)
        rows = [self._sample(row) for row, _ in work if row.num_computed == len(row.tokens)]
        num_tokens = sum(count for _, count in work)
        contexts = [(row.num_computed, count) for row, count in work]
        self._load = StepLoad(
            num_tokens,
            num_sampled=len(rows),
            num_context_tokens=sum(context for context, _ in contexts),
            num_pairs=sum(count * (2 * context - count + 1) // 2 for context, count in contexts),
        )
        return StepOutput(rows, num_tokens, told)

    def _release(self, slot: int) -> None:
        row = self._rows.pop(slot, None)
        if row is None:
            _reject(f"slot {slot} is released, but it is free")
        self._cache.release(row)

    def _admit(self, admitted: Admitted) -> None:
        slot, tokens = admitted.slot, unpack_u32(admitted.tokens)
        if not 0 <= slot < self._capabilities.max_num_seqs:
            _reject(f"slot {slot} is given out, but there are only {self._capabilities.max_num_seqs}")
        if slot in self._rows:
            _reject(f"slot {slot} is given to {admitted.request_id}, but {self._rows[slot].request_id} has it")
        if not 0 < admitted.num_prompt_tokens <= len(tokens) <= self._capabilities.max_model_len:
            _reject(f"{admitted.request_id} has {len(tokens)} tokens, {admitted.num_prompt_tokens} of them prompt")
        if not 0 <= admitted.num_computed_tokens < len(tokens):
            _reject(f"{admitted.request_id} has {len(tokens)} tokens, {admitted.num_computed_tokens} of them computed")
        if admitted.sampling.pooling is Pooling.MEAN and admitted.num_computed_tokens and not _has_output(admitted):
            _reject(f"{admitted.request_id} asks for a mean, but {admitted.num_computed_tokens} tokens are passed over")
        row = FakeRow(
            slot=slot,
            request_id=admitted.request_id,
            choice=admitted.choice,
            tokens=tokens,
            num_prompt_tokens=admitted.num_prompt_tokens,
            num_computed=admitted.num_computed_tokens,
            blocks=array("I"),
            sampling=admitted.sampling,
            tells_prompt=admitted.sampling.prompt_logprobs
            if admitted.choice == 0 and not _has_output(admitted)
            else None,
        )
        if row.num_output_tokens >= row.sampling.max_tokens or len(tokens) == self._capabilities.max_model_len:
            _reject(f"{row.request_id} is admitted with {row.num_output_tokens} output tokens, but it is complete")
        self._rows[slot] = row
        for block in unpack_u32(admitted.blocks):
            self._extend(row, block)
        self._check_covered(row, row.num_computed)

    def _append(self, slots: array[int], blocks: array[int]) -> None:
        if len(slots) != len(blocks):
            _reject(f"{len(blocks)} blocks are appended to {len(slots)} rows")
        for slot, block in zip(slots, blocks, strict=True):
            self._extend(self._row(slot), block)

    def _extend(self, row: FakeRow, block: int) -> None:
        if block in row.blocks:
            _reject(f"slot {row.slot} is given block {block} twice")
        self._cache.hold(row, block)
        row.blocks.append(block)
        if (len(row.blocks) - 1) * self._capabilities.block_size >= self._capabilities.max_model_len:
            _reject(f"slot {row.slot} has {len(row.blocks)} blocks, more than max_model_len needs")

    def _copy(self, pairs: array[int]) -> None:
        if not pairs:
            return
        sources, destinations = pairs[::2], pairs[1::2]
        written = set(destinations)
        if len(sources) != len(destinations) or len(written) != len(destinations) or not written.isdisjoint(sources):
            _reject(f"block copies {pairs.tolist()} depend on their order")
        for source, destination in zip(sources, destinations, strict=True):
            self._cache.copy(source, destination)
        for row in self._rows.values():
            if not written.isdisjoint(row.blocks):
                row.verified = False

    def _work(self, slots: array[int], counts: array[int]) -> list[tuple[FakeRow, int]]:
        if len(slots) != len(counts) or len(set(slots)) != len(slots):
            _reject(f"{len(counts)} token counts for {len(slots)} rows, {len(set(slots))} of them different")
        if sum(counts) > self._capabilities.max_num_batched_tokens:
            _reject(f"{sum(counts)} tokens exceed max_num_batched_tokens {self._capabilities.max_num_batched_tokens}")
        work = []
        for slot, count in zip(slots, counts, strict=True):
            row = self._row(slot)
            if row.finished:
                continue
            if not 0 < count <= len(row.tokens) - row.num_computed:
                _reject(f"slot {slot} computes {count} of {len(row.tokens) - row.num_computed} tokens")
            self._check_covered(row, row.num_computed + count)
            work.append((row, count))
        return work

    def _row(self, slot: int) -> FakeRow:
        row = self._rows.get(slot)
        if row is None:
            _reject(f"slot {slot} is named, but it is free")
        return row

    def _check_covered(self, row: FakeRow, num_tokens: int) -> None:
        if len(row.blocks) * self._capabilities.block_size < num_tokens:
            _reject(f"slot {row.slot} has {len(row.blocks)} blocks, too few for {num_tokens} tokens")

    def _next_token(self, row: FakeRow) -> int:
        """The function of the request: where a subclass may let a token depend on those before it."""
        return fake_token(row.request_id, row.choice, row.num_output_tokens, self._vocab_size)

    def _sample(self, row: FakeRow) -> RowOutput:
        index, stop_ids = row.num_output_tokens, row.sampling.stop_token_ids
        token = self._next_token(row)
        finish = FinishCode.RUNNING
        if self._length and stop_ids and index + 1 >= self._length(row.request_id, row.choice):
            token, finish = stop_ids[0], FinishCode.STOP
        row.tokens.append(token)
        if finish is FinishCode.RUNNING and (
            index + 1 >= row.sampling.max_tokens or len(row.tokens) >= self._capabilities.max_model_len
        ):
            finish = FinishCode.LENGTH
        row.finished = finish is not FinishCode.RUNNING
        num_top = row.sampling.logprobs
        logprobs = None if num_top is None else fake_logprobs((token,), num_top, self._vocab_size)
        is_asked = row.sampling.pooling is not Pooling.NONE and index == 0
        embedding = fake_embedding(row.tokens[: row.num_prompt_tokens], row.sampling.pooling) if is_asked else None
        return RowOutput(row.slot, (token,), finish, logprobs=logprobs, embedding=embedding)

    def _tell_prompt(self, row: FakeRow, count: int) -> PromptLogprobs | None:
        start = row.num_computed + 1
        tokens = row.tokens[start : min(start + count, row.num_prompt_tokens)]
        if row.tells_prompt is None or not tokens:
            return None
        return PromptLogprobs(row.slot, start, fake_logprobs(tokens, row.tells_prompt, self._vocab_size))


def _has_output(admitted: Admitted) -> bool:
    return len(unpack_u32(admitted.tokens)) > admitted.num_prompt_tokens


def _reject(message: str) -> NoReturn:
    raise PlanError(message)
