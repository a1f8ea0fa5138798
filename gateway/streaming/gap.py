"""Which tokens are new, which were seen before and which are missing. Pure: batches and the time in, decisions out.

Publishing may lose messages and may repeat them. Two things reveal it: a batch names the step before it that held
something for this gateway, and each item names the place of its tokens in the choice's output.
"""

from __future__ import annotations  # array[int] is a type from Python 3.12 on

from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Final, Protocol, cast

import msgspec

from gateway.streaming.token_logprobs import TokenLogprobs, unpack_logprobs
from shared.errors import MessageError
from shared.ids import BEFORE_FIRST_STEP, Handle, StepId, WorkerId
from shared.messages import Fault, LogprobSpan, TokenBatch
from shared.packing import unpack_u32
from shared.sampling import FinishCode

QUIET_S: Final = 0.25
"""A choice that has heard nothing for that long, or for four times its usual interval, may have lost something."""

_FINISH_CODES: Final = {code.value: code for code in FinishCode}
"""Calling the enum takes five times as long, and is done for each token."""

_QUIET_INTERVALS: Final = 4.0
_INTERVAL_WEIGHT: Final = 0.2


class Order(Enum):
    """Where a batch stands in its writer's log, as seen from what has been read of it."""

    SEEN = auto()
    NEXT = auto()
    AFTER_A_GAP = auto()


class Cursors(Protocol):
    """How far each writer's log has been applied, for those who do not move it."""

    @property
    def steps(self) -> Mapping[WorkerId, StepId]:
        """The last step of each writer that was applied. A change makes another mapping: this one may be kept."""


class WriterCursors:
    """How far each writer's log has been applied. Implements `Cursors`."""

    def __init__(self, steps: Mapping[WorkerId, StepId] | None = None) -> None:
        self.steps: Mapping[WorkerId, StepId] = dict(steps or {})

    def of(self, writer: WorkerId) -> StepId:
        """The last step of this writer that was applied."""
        return self.steps.get(writer, BEFORE_FIRST_STEP)

    def order(self, batch: TokenBatch) -> Order:
        """Whether a batch can be applied now."""
        cursor = self.of(batch.worker_id)
        if batch.step <= cursor:
            return Order.SEEN
        return Order.AFTER_A_GAP if batch.previous > cursor else Order.NEXT

    def advance(self, writer: WorkerId, step: StepId) -> None:
        """Everything up to this step has been applied. Never goes back."""
        if step > self.of(writer):
            self.steps = {**self.steps, writer: step}

    def rewind(self, steps: Mapping[WorkerId, StepId]) -> None:
        """Go back to these steps, and to the beginning of the logs of all other writers."""
        self.steps = {writer: min(step, steps[writer]) for writer, step in self.steps.items() if writer in steps}

    def retain(self, writers: Sequence[WorkerId]) -> None:
        """Forget everyone else: their logs are gone."""
        kept = set(writers)
        self.steps = {writer: step for writer, step in self.steps.items() if writer in kept}


class TokenItem(msgspec.Struct, frozen=True, gc=False):
    """One choice's part of a batch.

    Attributes:
        position: Place of the first token in the choice's output.
        num_cached_tokens: Of the prompt; known at position 0.
        logprobs: Of each token, or none at all if the request does not ask.
    """

    handle: Handle
    position: int
    tokens: Sequence[int]
    finish: FinishCode
    num_cached_tokens: int = 0
    logprobs: Sequence[TokenLogprobs] = ()


def items_of(batch: TokenBatch) -> Iterator[TokenItem]:
    """Take a batch's parallel arrays apart.

    Raises:
        MessageError: the arrays contradict each other.
    """
    handles = cast("list[Handle]", unpack_u32(batch.handles).tolist())
    indices = unpack_u32(batch.indices).tolist()
    tokens, cached = unpack_u32(batch.tokens).tolist(), iter(unpack_u32(batch.cached))
    if not len(handles) == len(indices) == len(batch.counts) == len(batch.finishes) or sum(batch.counts) != len(tokens):
        raise MessageError(f"the arrays of batch {batch.step} of {batch.worker_id} have different lengths")
    if max(batch.finishes, default=0) > max(FinishCode):
        raise MessageError(f"batch {batch.step} of {batch.worker_id} ends a choice in an unknown way")
    logprobs = {span.handle: span for span in batch.logprobs}
    start = 0
    for handle, position, count, finish in zip(handles, indices, batch.counts, batch.finishes, strict=True):
        stop = start + count
        num_cached = next(cached, 0) if position == 0 else 0
        told = _told(logprobs.get(handle), position, count) if logprobs else ()
        yield TokenItem(handle, position, tokens[start:stop], _FINISH_CODES[finish], num_cached, told)
        start = stop


def _told(span: LogprobSpan | None, position: int, count: int) -> Sequence[TokenLogprobs]:
    if span is None:
        return ()
    logprobs = unpack_logprobs(span.logprobs)
    if span.start != position or len(logprobs) != count:
        raise MessageError(f"{len(logprobs)} log-probabilities from {span.start} on, {count} tokens from {position} on")
    return logprobs


class ChoiceStream:
    """The output of one choice, put together in order from items that come late, twice or out of order.

    Attributes:
        handle: Its name on the bus.
        output: All tokens put in order so far, u32.
        finish: RUNNING until its last token has been taken in.
        fault: Why it ended, if it ended with an error.
        num_cached_tokens: Of its prompt.
        prompt_logprobs: Of the prompt's tokens by their places, as far as they have been told.
        embedding: The prompt as a vector, f32 [hidden_size], from its first token on if the request asks for it.
    """

    def __init__(self, handle: Handle, now_s: float) -> None:
        self.handle = handle
        self.finish = FinishCode.RUNNING
        self.fault: Fault | None = None
        self.num_cached_tokens = 0
        self.prompt_logprobs: dict[int, TokenLogprobs] = {}
        self.embedding: bytes | None = None
        self.output: array[int] = array("I")
        self._num_taken = 0
        self._logprobs: list[TokenLogprobs] = []
        self._ahead: dict[int, TokenItem] = {}  # by position; empty once it is finished
        self._heard_s = now_s
        self._interval_s = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish is not FinishCode.RUNNING

    @property
    def has_gap(self) -> bool:
        """Whether later tokens are here and the next ones are missing."""
        return bool(self._ahead)

    @property
    def num_tokens(self) -> int:
        """Tokens put in order so far."""
        return len(self.output)

    def is_quiet(self, now_s: float) -> bool:
        """Whether it has heard nothing for longer than is usual."""
        return not self.is_finished and now_s - self._heard_s > max(QUIET_S, _QUIET_INTERVALS * self._interval_s)

    def accept(self, item: TokenItem, now_s: float) -> None:
        """Take in what is new of an item, and what has waited for it."""
        if self.finish:
            return
        if item.position > self.num_tokens:
            known = self._ahead.get(item.position)
            if known is None or len(known.tokens) < len(item.tokens):
                self._ahead[item.position] = item
            return
        self._append(item)
        while self._ahead and (position := min(self._ahead)) <= self.num_tokens:
            self._append(self._ahead.pop(position))
        self._interval_s += _INTERVAL_WEIGHT * (now_s - self._heard_s - self._interval_s)
        self._heard_s = now_s

    def accept_prompt(self, span: LogprobSpan, now_s: float) -> None:
        """Take in log-probabilities of the prompt. Told again, they are the same."""
        self.prompt_logprobs.update(enumerate(unpack_logprobs(span.logprobs), span.start))
        self._heard_s = now_s

    def fail(self, fault: Fault) -> None:
        """End it with an error, unless it has ended."""
        if not self.is_finished:
            self.finish, self.fault = FinishCode.ERROR, fault
            self._ahead.clear()

    def stop(self) -> None:
        """End it here: nobody wants its further tokens."""
        if not self.is_finished:
            self.finish = FinishCode.STOP
            self._ahead.clear()

    def take(self) -> tuple[list[int], list[TokenLogprobs]]:
        """The tokens since the last call, and their log-probabilities if the request asks for them."""
        taken = self.output[self._num_taken :].tolist(), self._logprobs
        self._num_taken, self._logprobs = len(self.output), []
        return taken

    def _append(self, item: TokenItem) -> None:
        new, logprobs = item.tokens, item.logprobs
        if not self.output:
            self.num_cached_tokens = item.num_cached_tokens
        elif num_known := self.num_tokens - item.position:
            new, logprobs = new[num_known:], logprobs[num_known:]
        self.output.extend(new)
        if logprobs:
            self._logprobs += logprobs
        self.finish = item.finish
        if self.finish:
            self._ahead.clear()
