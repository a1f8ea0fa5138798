"""How far a call of `LLM` is, as vLLM shows it."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tqdm.auto import tqdm

BarMaker = Callable[..., "tqdm[Any]"]
"""Makes a bar as `tqdm` does."""


class ProgressBar:
    """A bar over requests or steps with the speed in tokens, or nothing.

    Args:
        total: How many.
        use_tqdm: Whether to show a bar, or what makes one.
    """

    def __init__(self, total: int, use_tqdm: bool | BarMaker) -> None:  # noqa: FBT001 - as tqdm's own arguments
        make = tqdm if isinstance(use_tqdm, bool) else use_tqdm
        self._bar = make(total=total, desc="Processed prompts", dynamic_ncols=True) if use_tqdm else None
        self._started_s = time.perf_counter()
        self._num_input_tokens = 0
        self._num_output_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, num_input_tokens: int, num_output_tokens: int) -> None:
        """Count one more, and its tokens."""
        if self._bar is None:
            return
        self._num_input_tokens += num_input_tokens
        self._num_output_tokens += num_output_tokens
        seconds = time.perf_counter() - self._started_s
        self._bar.set_postfix_str(
            f"est. speed input: {self._num_input_tokens / seconds:.2f} toks/s, "
            f"output: {self._num_output_tokens / seconds:.2f} toks/s",
            refresh=False,
        )
        self._bar.update(1)
