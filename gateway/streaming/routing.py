"""Where each token goes, and what must be read from the logs first. Pure: batches, logs and the time in, reads out.

Owns the handles, and how far each writer's log has been applied. A published batch that does not follow is dropped:
what is published is in the log, and is found there when the log is read from the cursor on.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.streaming.gap import ChoiceStream, Order, WriterCursors, items_of
from shared.ids import BEFORE_FIRST_STEP, Handle, StepId, WorkerId
from shared.messages import Fault, TokenBatch

_logger = logging.getLogger(__name__)

_NUM_HANDLES: Final = 2**32


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read a writer's log above `after`; the answer is for `Routing.take_log`."""

    writer: WorkerId
    after: StepId


@dataclass(frozen=True, slots=True)
class ListWriters:
    """Ask who has a log; the answer is for `Routing.take_writers`."""


class Routing:
    """The open choices, and what has been heard of them.

    All logs are read in a round: writers are listed, and each log is read from its cursor on. A gap that was there when
    the round began and is there when it has ended cannot be filled.

    Invariant: everything for us at or below a writer's cursor has been given to its choices.

    Attributes:
        cursors: By writer, up to where its log has been given to its choices. Read by others, moved here alone.
    """

    def __init__(self, cursors: Mapping[WorkerId, StepId] | None = None) -> None:
        self._choices: dict[Handle, ChoiceStream] = {}
        self.cursors = WriterCursors(cursors)
        self._changed: dict[Handle, None] = {}
        self._next_handle = 0
        self._unread: dict[WorkerId, None] = {}
        self._needs_round = False
        self._round: Sequence[WorkerId] | None = None
        self._gaps: dict[Handle, int] = {}
        self._asked: dict[WorkerId, StepId] = {}

    @property
    def open_handles(self) -> list[Handle]:
        """Those in use."""
        return list(self._choices)

    def adopt(self, choices: Iterable[ChoiceStream], cursors: Mapping[WorkerId, StepId]) -> None:
        """Go on with choices under the handles they have. Logs are read again from where they have been applied."""
        for choice in choices:
            self._choices[choice.handle] = choice
            self._gaps.pop(choice.handle, None)  # it was another choice's
        self.cursors.rewind(cursors)
        self.read_all()

    def open(self, num_choices: int, now_s: float) -> list[ChoiceStream]:
        """Choices whose handles are consecutive and have not been used for long."""
        first = self._free_handles(num_choices)
        opened = [ChoiceStream(Handle(first + i), now_s) for i in range(num_choices)]
        self._choices.update((choice.handle, choice) for choice in opened)
        return opened

    def close(self, handles: Iterable[Handle]) -> None:
        """Forget choices. Tokens that still come for them are dropped."""
        for handle in handles:
            self._choices.pop(handle, None)
            self._changed.pop(handle, None)

    def fail(self, handle: Handle, fault: Fault) -> None:
        """End a choice with an error, if it is open."""
        if choice := self._choices.get(handle):
            choice.fail(fault)
            self._changed[handle] = None

    def receive(self, batch: TokenBatch, now_s: float) -> None:
        """Take in what was published."""
        match self.cursors.order(batch):
            case Order.NEXT:
                self._apply(batch, now_s)
            case Order.AFTER_A_GAP:
                self._unread[batch.worker_id] = None
            case Order.SEEN:
                return

    def watch(self, now_s: float) -> None:
        """Look for choices that have been quiet for long: after the last message no other shows its loss."""
        if any(choice.is_quiet(now_s) or choice.has_gap for choice in self._choices.values()):
            self.read_all()

    def read_all(self) -> None:
        """Want every log read beyond what has been applied."""
        self._needs_round = True

    def next_read(self) -> ReadLog | ListWriters | None:
        """What is to be read now; None if nothing is missing. To be answered, or given up, before the next call."""
        if self._unread:
            writer = next(iter(self._unread))
            del self._unread[writer]
            after = self._asked[writer] = self.cursors.of(writer)
            return ReadLog(writer, after)
        if self._needs_round:
            self._gaps = {handle: choice.num_tokens for handle, choice in self._choices.items() if choice.has_gap}
            return ListWriters()
        return None

    def take_writers(self, writers: Sequence[WorkerId]) -> None:
        """Everyone who has a log: begins a round."""
        self._needs_round = False
        self._round = writers
        self._unread = dict.fromkeys(writer for writer in writers if not self.cursors.of(writer).is_seal)
        self._end_round_if_read()

    def take_log(self, writer: WorkerId, read_to: StepId, batches: Iterable[TokenBatch], now_s: float) -> None:
        """Our batches in a log above its cursor, and how far it has been read."""
        if self.cursors.of(writer) < self._asked.pop(writer, BEFORE_FIRST_STEP):
            # Choices were adopted meanwhile: what comes before this counts again.
            self._unread[writer] = None
            return
        for batch in batches:
            if self.cursors.order(batch) is not Order.SEEN:
                self._apply(batch, now_s)
        self.cursors.advance(writer, read_to)
        self._end_round_if_read()

    def give_up(self) -> None:
        """The bus does not answer. Whoever is quiet will ask again."""
        self._unread = {}
        self._asked = {}
        self._needs_round = False
        self._round = None

    def take_changed(self) -> list[Handle]:
        """The choices that have news since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def _apply(self, batch: TokenBatch, now_s: float) -> None:
        """Give a batch's items to their choices."""
        self.cursors.advance(batch.worker_id, batch.step)
        for span in batch.prompt_logprobs:
            if choice := self._choices.get(span.handle):
                choice.accept_prompt(span, now_s)
                self._changed[span.handle] = None
        for embedding in batch.embeddings:
            if choice := self._choices.get(embedding.handle):
                choice.embedding = embedding.vector
        for item in items_of(batch):
            if choice := self._choices.get(item.handle):
                choice.accept(item, now_s)
                self._changed[item.handle] = None
                # In a round the missing tokens may still come; its end decides.
                self._needs_round |= choice.has_gap and self._round is None
        for fault in batch.faults:
            self.fail(fault.handle, fault)

    def _end_round_if_read(self) -> None:
        if self._round is None or self._unread:
            return
        self.cursors.retain(self._round)
        self._round = None
        for handle, choice in self._choices.items():
            if choice.has_gap and self._gaps.get(handle) == choice.num_tokens:
                message = f"output tokens from {choice.num_tokens} on were lost: no log holds them any more"
                _logger.error("handle %d: %s", handle, message)
                self.fail(handle, Fault(handle, 500, message))
            self._needs_round |= choice.has_gap

    def _free_handles(self, num_choices: int) -> int:
        first = self._next_handle
        while True:
            if first + num_choices > _NUM_HANDLES:
                first = 0
            taken = [handle for handle in range(first, first + num_choices) if Handle(handle) in self._choices]
            if not taken:
                self._next_handle = first + num_choices
                return first
            first = taken[-1] + 1
