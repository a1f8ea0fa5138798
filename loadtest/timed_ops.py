"""Ops that count the time of each part of a step: a stopwatch between the model and the kernels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, ParamSpec, TypeVar

from torch import Tensor

from kernels.arguments import Embedding, Linear, Matrix, PagedAttention, PagedBatch
from kernels.ops import Ops

PARTS: Final = ("linears", "attention", "rotation and cache write", "norms", "SwiGLU", "head", "sampling")
"""What the time of ops is booked on. The lookup of embeddings is in none of them."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Stopwatch:
    """Milliseconds by part, since they were last taken."""

    def __init__(self) -> None:
        self._ns = dict.fromkeys(PARTS, 0)

    def time(self, part: str, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """The same function, its time booked on a part."""

        def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            started = time.perf_counter_ns()
            result = function(*args, **kwargs)
            self._ns[part] += time.perf_counter_ns() - started
            return result

        return timed

    def take_ms(self) -> dict[str, float]:
        """Milliseconds of every part; counts from 0 again."""
        taken = {part: spent / 1e6 for part, spent in self._ns.items()}
        self._ns = dict.fromkeys(PARTS, 0)
        return taken


class _TimedEmbedding:
    def __init__(self, embedding: Embedding, watch: Stopwatch) -> None:
        self._embedding = embedding
        self._watch = watch

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self._embedding(token_ids)

    def head(self) -> Linear:
        return self._watch.time("head", self._embedding.head())


def timed_ops(ops: Ops, watch: Stopwatch, *, vocab_size: int) -> Ops:
    """A table with the same results, whose calls are booked on a stopwatch. It captures nothing.

    Args:
        ops: On a CPU, where a call has computed when it returns.
        watch: Gets the times.
        vocab_size: A linear layer with as many rows is the head.
    """

    def pack_linear(matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
        is_head = sum(matrix.shape[0] for matrix in matrices) == vocab_size
        return watch.time("head" if is_head else "linears", ops.pack_linear(matrices, bias))

    def pack_embedding(matrix: Matrix) -> Embedding:
        return _TimedEmbedding(ops.pack_embedding(matrix), watch)

    plan_attention = watch.time("attention", ops.plan_attention)

    def plan(batch: PagedBatch) -> PagedAttention:
        return watch.time("attention", plan_attention(batch))

    return replace(
        ops,
        pack_linear=pack_linear,
        pack_embedding=pack_embedding,
        rms_norm=watch.time("norms", ops.rms_norm),
        add_rms_norm=watch.time("norms", ops.add_rms_norm),
        rotate_and_write=watch.time("rotation and cache write", ops.rotate_and_write),
        norm_heads=watch.time("norms", ops.norm_heads),
        add=watch.time("norms", ops.add),
        silu_and_mul=watch.time("SwiGLU", ops.silu_and_mul),
        gelu_and_mul=watch.time("SwiGLU", ops.gelu_and_mul),
        plan_attention=plan,
        argmax=watch.time("sampling", ops.argmax),
        sample=watch.time("sampling", ops.sample),
        capture=None,
    )
