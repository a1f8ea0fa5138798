"""grammar: a sequence's output follows its grammar, and ends where the grammar lets it.

Which tokens may come next is found out by a thread of its own while the model computes their logits.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_worker.logits_processors.places import TokenIds, known_tokens
from shared.errors import GrammarError
from shared.grammar import GrammarCompiler, GrammarState
from shared.messages import Admitted
from shared.packing import unpack_u32
from shared.sampling import SamplingParams

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Row:
    """One sequence.

    Attributes:
        stop_tokens: They are no part of the output.
        may_leave_nothing: Other parameters of the request forbid tokens too.
        forbidden: [vocab_size] bool; of the next step, once `pending` is done.
        pending: The work on the grammar that is under way.
        state: How far the output has come, once the first `pending` is done.
    """

    stop_tokens: TokenIds
    may_leave_nothing: bool
    forbidden: NDArray[np.bool_]
    pending: "Future[None]" = field(init=False)
    state: GrammarState | None = None
    is_complete: bool = False


class GrammarMask:
    """Implements `LogitsProcessor`. It has the last word: what else is forbidden is chosen if nothing else is left."""

    def __init__(self, compiler: GrammarCompiler, vocab_size: int) -> None:
        self._compiler = compiler
        self._vocab_size = vocab_size
        self._rows: dict[int, _Row] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")

    def admit(self, admitted: Admitted) -> bool:
        """See `LogitsProcessor`."""
        sampling = admitted.sampling
        if not sampling.grammar:
            return False
        row = _Row(
            stop_tokens=known_tokens(sampling.stop_token_ids, self._vocab_size),
            may_leave_nothing=_forbids_tokens(sampling),
            forbidden=np.ones(self._vocab_size, bool),
        )
        output = unpack_u32(admitted.tokens)[admitted.num_prompt_tokens :].tolist()
        row.pending = self._thread.submit(self._begin, row, sampling.grammar, output)
        self._rows[admitted.slot] = row
        return True

    def commit(self, slot: int, token: int) -> None:
        """See `LogitsProcessor`."""
        row = self._rows[slot]
        if row.state is None or token in row.stop_tokens:
            return
        try:
            row.state.accept((token,))
        except GrammarError as error:
            row.pending = Future()
            row.pending.set_exception(error)
            return
        row.is_complete = row.state.is_complete
        if not row.is_complete:
            row.pending = self._thread.submit(self._look_ahead, row, row.state)

    def is_complete(self, slot: int) -> bool:
        """Whether a sequence ends here because its grammar allows nothing more."""
        row = self._rows.get(slot)
        return row is not None and row.is_complete

    def release(self, slot: int) -> None:
        """See `LogitsProcessor`."""
        del self._rows[slot]

    def process(self, logits: Tensor, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """See `LogitsProcessor`. A row whose grammar cannot be followed is left without a token."""
        for place, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            row = self._rows[slot]
            try:
                row.pending.result()
            except GrammarError as error:
                _log.warning("the grammar of a sequence cannot be followed: %s", error)
                logits[place] = -torch.inf
                continue
            forbidden = torch.from_numpy(row.forbidden).to(logits.device)
            logits[place].masked_fill_(forbidden, -torch.inf)
            if row.may_leave_nothing and bool((logits[place] == -torch.inf).all()):
                logits[place].masked_fill_(~forbidden, 0.0)

    def _begin(self, row: _Row, source: str, output: list[int]) -> None:
        state = self._compiler.compile(source)
        state.accept(output)
        row.state = state
        self._look_ahead(row, state)

    def _look_ahead(self, row: _Row, state: GrammarState) -> None:
        mask = np.zeros(self._compiler.num_words, np.uint32)
        state.allowed(mask)
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._vocab_size]
        np.logical_not(allowed, out=row.forbidden[: len(allowed)])
        row.forbidden[row.stop_tokens] = not state.is_accepting


def _forbids_tokens(sampling: SamplingParams) -> bool:
    return bool(sampling.min_tokens or sampling.bad_words or sampling.allowed_token_ids)
