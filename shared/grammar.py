"""Grammars that an output must follow: compiled within limits, and followed token by token. By llguidance.

A grammar's source is llguidance's own JSON or Lark text. It crosses the bus as it is, and each process compiles it for
itself. How far an output has come in it is a function of the output's tokens.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import llguidance
import numpy as np
from numpy.typing import NDArray

from shared.errors import CheckpointError, GrammarError

_log = logging.getLogger(__name__)

_LIMITS: Final = llguidance.LLParserLimits(
    max_grammar_size=50_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    verbose_errors=False,
)
"""Work, not time, so that the same grammars compile everywhere: a compilation within them takes a second at the most,
and a step some 20 ms. A grammar's states take 40 MB at the most."""

_MAX_CACHED: Final = 16
_MAX_REASON_CHARACTERS: Final = 300


class GrammarState:
    """How far one output has come in its grammar. One thread at a time uses it."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_accepting(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether the output must end here: nothing may follow."""
        return self._matcher.is_stopped()

    def accept(self, tokens: Iterable[int]) -> None:
        """Go on with these tokens.

        Raises:
            GrammarError: the grammar does not allow them, or following it takes more work than the limits allow.
        """
        if not self._matcher.consume_tokens(list(tokens)):
            raise GrammarError(_reason(self._matcher))

    def allowed(self, mask: NDArray[np.uint32]) -> None:
        """Say which tokens may follow.

        Args:
            mask: [words of the compiler], overwritten: bit `token % 32` of word `token // 32`.

        Raises:
            GrammarError: finding out takes more work than the limits allow.
        """
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise GrammarError(_reason(self._matcher))


class GrammarCompiler:
    """Compiles for one model's tokenizer, and remembers what it has compiled. Safe to use from several threads."""

    def __init__(self, load_tokenizer: Callable[[], str], end_token_ids: Sequence[int]) -> None:
        """Nothing is loaded yet.

        Args:
            load_tokenizer: Gives the text of a `tokenizer.json`.
            end_token_ids: Tokens that end an output and are never part of it; without any, one is guessed.
        """
        self._load_tokenizer = load_tokenizer
        self._end_token_ids = list(end_token_ids)
        self._loaded: llguidance.LLTokenizer | None = None
        self._loading = threading.Lock()
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._caching = threading.Lock()

    def prepare(self) -> None:
        """Load the tokenizer in a thread, so that the first grammar need not: half a second without the GIL."""
        threading.Thread(target=self._prepare, name="grammar tokenizer", daemon=True).start()

    @property
    def num_words(self) -> int:
        """Length of a mask: a bit for each token of the tokenizer."""
        return -(-self._tokenizer().vocab_size // 32)

    def compile(self, source: str) -> GrammarState:
        """The beginning of a new output.

        Raises:
            GrammarError: the grammar is wrong, takes more work than the limits allow, or allows no output at all.
        """
        with self._caching:
            matcher = self._compiled.get(source)
            if matcher is not None:
                self._compiled.move_to_end(source)
                return GrammarState(matcher.deep_copy())
        matcher = self._compile(source)
        with self._caching:
            self._compiled[source] = matcher
            if len(self._compiled) > _MAX_CACHED:
                self._compiled.popitem(last=False)
            return GrammarState(matcher.deep_copy())

    def _compile(self, source: str) -> llguidance.LLMatcher:
        matcher = llguidance.LLMatcher(self._tokenizer(), source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_reason(matcher))
        # Much of the work is put off until it is needed.
        GrammarState(matcher).allowed(np.zeros(self.num_words, np.uint32))
        return matcher

    def _prepare(self) -> None:
        try:
            self._tokenizer()
        except GrammarError as error:
            _log.warning("requests with a grammar will fail: %s", error)

    def _tokenizer(self) -> llguidance.LLTokenizer:
        with self._loading:
            if self._loaded is None:
                try:
                    self._loaded = llguidance.LLTokenizer(self._load_tokenizer(), eos_token=self._end_token_ids or None)
                except (ValueError, CheckpointError) as error:
                    raise GrammarError(f"the model's tokenizer is not supported: {error}") from error
            return self._loaded


def _reason(matcher: llguidance.LLMatcher) -> str:
    """One line."""
    reason = " ".join(matcher.get_error().removesuffix("<non-verbose/>").split())
    if reason.startswith("NoExtension"):
        return "it allows no output"
    return reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."
