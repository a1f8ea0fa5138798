"""What `pagestream bench kernels` and `make gpu-check` measure: every op of a model's step, in the model's shapes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gpu_worker.kv_cache import CacheGeometry, KVCache, bytes_per_block
from gpu_worker.precision import Precision
from gpu_worker.weights import Weights
from kernels.arguments import (
    BlockMatrix,
    Int8Blocks,
    Int8Matrix,
    IntegerMatrix,
    Linear,
    Matrix,
    PagedBatch,
    SamplingTensors,
    ScaledMatrix,
)
from kernels.ops import Ops
from shared.architectures import ARCHITECTURES
from shared.model_config import ModelConfig

ROWS: Final = (1, 8, 32, 128)
DECODE: Final = (32, 1024)
"""Sequences, and tokens of each in the cache."""
PREFILL: Final = 512

_BLOCK_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One op with one input.

    Attributes:
        op: Its name.
        size: What it is given.
        run: Calls it `num_calls` times.
        num_bytes: That one call must read and write, each number once.
        flops: Multiplications and additions of one call; 0 where other work is the most of it.
    """

    op: str
    size: str
    run: Callable[[], None]
    num_calls: int
    num_bytes: int
    flops: int


class KernelCases:
    """The cases of one model.

    Args:
        config: Of the model.
        weights: Its matrices. All layers are packed, so that they come from memory, one after another, as in a step.
        ops: Whose.
        precision: Of activations and cache.
        device: Where the weights are.
    """

    def __init__(
        self, config: ModelConfig, weights: Weights, ops: Ops, precision: Precision, device: torch.device
    ) -> None:
        self._device = device
        self._config = config
        self._weights = weights
        self._ops = ops
        self._precision = precision
        self._num_calls = config.num_hidden_layers

    def all(self) -> Iterator[KernelCase]:
        """Every case, made when it is asked for."""
        yield from self.linears()
        yield from self._head_cases()
        for rows in ROWS:
            yield self._norm(rows)
        for rows in ROWS:
            yield self._rotation(rows)
        for rows in ROWS:
            yield self._swiglu(rows)
        num_seqs, context = DECODE
        yield self._attention("decode", num_seqs=num_seqs, context=context, num_new=1)
        yield self._attention("prefill", num_seqs=1, context=PREFILL, num_new=PREFILL)
        yield from self._sampling_cases()

    def linears(self) -> Iterator[KernelCase]:
        """Those of the layers; of a layer of experts, one expert."""
        for name in _names_of_matrices(self._config, 0):
            yield from self._layer_cases(name)

    def _layer_cases(self, name: str) -> Iterator[KernelCase]:
        linears, num_bytes, weights = [], 0, 0
        in_features = out_features = 0
        for index in range(self._config.num_hidden_layers):
            parts = _names_of_matrices(self._config, index)[name]
            matrices = [self._weights.matrix(f"model.layers.{index}.{part}.weight") for part in parts]
            in_features, out_features = matrices[0].shape[1], sum(matrix.shape[0] for matrix in matrices)
            num_bytes += sum(map(_num_bytes, matrices))
            weights = in_features * out_features
            linears.append(self._ops.pack_linear(matrices, None))
        for rows in ROWS:
            yield self._linear_case(name, linears, rows, in_features, out_features, num_bytes // len(linears), weights)

    def _head_cases(self) -> Iterator[KernelCase]:
        tied = self._config.tie_word_embeddings
        matrix = self._weights.matrix("model.embed_tokens.weight" if tied else "lm_head.weight")
        head = self._ops.pack_linear([matrix], None)
        out_features, in_features = matrix.shape
        for rows in ROWS:
            yield self._linear_case(
                "head", [head], rows, in_features, out_features, _num_bytes(matrix), in_features * out_features
            )

    def _linear_case(
        self, name: str, linears: list[Linear], rows: int, in_features: int, out_features: int, size: int, weights: int
    ) -> KernelCase:
        x = self._random(rows, in_features)

        def run() -> None:
            for linear in linears:
                linear(x)

        moved = size + rows * (in_features + out_features) * x.itemsize
        return KernelCase(name, _rows(rows), run, len(linears), moved, 2 * rows * weights)

    def _norm(self, rows: int) -> KernelCase:
        size = self._config.hidden_size
        x, residual, weight = self._random(rows, size), self._random(rows, size), self._random(size)

        def run() -> None:
            for _ in range(self._num_calls):
                self._ops.add_rms_norm(x, residual, weight, 1e-5)

        return KernelCase("add and norm", _rows(rows), run, self._num_calls, 4 * rows * size * x.itemsize, 0)

    def _rotation(self, rows: int) -> KernelCase:
        config = self._config
        num_heads = config.num_attention_heads + 2 * config.num_key_value_heads
        qkv, angles = self._random(rows, num_heads, config.head_dim), self._random(rows, config.head_dim // 2)
        cos, sin = angles.cos(), angles.sin()
        cache = self._cache(num_blocks=rows)
        slots = (torch.randperm(rows) * _BLOCK_SIZE).to(self._device)

        def run() -> None:
            for _ in range(self._num_calls):
                self._ops.rotate_and_write(qkv, cos, sin, *cache, slots)

        written = config.num_attention_heads * config.head_dim * qkv.itemsize + self._token_bytes
        return KernelCase(
            "rotation and cache write",
            _rows(rows),
            run,
            self._num_calls,
            qkv.nbytes + cos.nbytes + sin.nbytes + rows * written,
            0,
        )

    def _swiglu(self, rows: int) -> KernelCase:
        x = self._random(rows, 2 * self._config.intermediate_size)

        def run() -> None:
            for _ in range(self._num_calls):
                self._ops.silu_and_mul(x)

        return KernelCase("SwiGLU", _rows(rows), run, self._num_calls, x.nbytes * 3 // 2, 0)

    def _attention(self, name: str, *, num_seqs: int, context: int, num_new: int) -> KernelCase:
        config = self._config
        blocks_each = -(-context // _BLOCK_SIZE)
        cache = self._cache(num_blocks=num_seqs * blocks_each)
        self._fill(cache, num_seqs * blocks_each * _BLOCK_SIZE)
        batch = PagedBatch(
            query_start=torch.arange(0, num_seqs * num_new + 1, num_new, dtype=torch.int32, device=self._device),
            context_lens=torch.full((num_seqs,), context, dtype=torch.int32, device=self._device),
            block_tables=torch.randperm(num_seqs * blocks_each).int().view(num_seqs, blocks_each).to(self._device),
            block_size=_BLOCK_SIZE,
            is_decode=num_new == 1,
        )
        query = self._random(num_seqs * num_new, config.num_attention_heads, config.head_dim)
        attention = self._ops.plan_attention(batch)

        def run() -> None:
            attention(query, *cache, scale=config.head_dim**-0.5)

        num_pairs = num_seqs * sum(range(context - num_new + 1, context + 1))
        return KernelCase(
            f"attention, {name}",
            f"{num_seqs} of {context} tokens",
            run,
            1,
            2 * query.nbytes + num_seqs * context * self._token_bytes,
            4 * num_pairs * config.num_attention_heads * config.head_dim,
        )

    def _sampling_cases(self) -> Iterator[KernelCase]:
        for rows in ROWS[:-1]:
            logits = (torch.randn(rows, self._config.vocab_size) * 4).to(self._device)
            how = SamplingTensors(
                temperature=torch.ones(rows, device=self._device),
                top_k=torch.zeros(rows, dtype=torch.int64, device=self._device),
                top_p=torch.full((rows,), 0.9, dtype=torch.float64, device=self._device),
                min_p=torch.zeros(rows, device=self._device),
                uniforms=(torch.rand(rows, dtype=torch.float64) * 0.99).to(self._device),
            )
            yield self._sampling_case("sampling, greedy", rows, logits, None)
            yield self._sampling_case("sampling, top-p", rows, logits, how)

    def _sampling_case(self, name: str, rows: int, logits: Tensor, how: SamplingTensors | None) -> KernelCase:
        def run() -> None:
            if how is None:
                self._ops.argmax(logits)
            else:
                self._ops.sample(logits, how)

        return KernelCase(name, _rows(rows), run, 1, logits.nbytes, 0)

    @property
    def _token_bytes(self) -> int:
        """Of one token's keys and values in one layer."""
        config, dtype = self._config, self._precision.cache
        return bytes_per_block(config, block_size=1, dtype=dtype) // config.num_hidden_layers

    def _cache(self, *, num_blocks: int) -> tuple[Tensor, Tensor]:
        """One layer's."""
        config = self._config
        geometry = CacheGeometry(_BLOCK_SIZE, num_blocks, num_blocks * _BLOCK_SIZE)
        return KVCache(config, geometry, self._ops, dtype=self._precision.cache, device=self._device).layer(0)

    def _fill(self, cache: tuple[Tensor, Tensor], num_slots: int) -> None:
        config = self._config
        turn = self._random(1024, config.head_dim // 2)
        for slots in torch.split(torch.arange(num_slots, device=self._device), 1024):
            qkv = self._random(len(slots), config.num_attention_heads + 2 * config.num_key_value_heads, config.head_dim)
            cos, sin = turn[: len(slots)].cos(), turn[: len(slots)].sin()
            self._ops.rotate_and_write(qkv, cos, sin, *cache, slots)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape).to(self._device, self._precision.activations)


def _names_of_matrices(config: ModelConfig, layer: int) -> Mapping[str, Sequence[str]]:
    """By what they do, the family's names of a layer's matrices."""
    architecture = ARCHITECTURES[config.architecture]
    gate_up, down = architecture.gate_up, "mlp.down_proj"
    if config.layers[layer].is_sparse and (experts := architecture.experts) is not None:
        expert = experts.expert.format(0)
        gate_up, down = tuple(f"{expert}.{name}" for name in experts.gate_up), f"{expert}.{experts.down}"
    return {
        "qkv": architecture.qkv,
        "attention output": ("self_attn.o_proj",),
        "gate and up": gate_up,
        "down": (down,),
    }


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _num_bytes(matrix: Matrix) -> int:
    if isinstance(matrix, Int8Blocks):
        matrix = matrix.blocks
    if isinstance(matrix, BlockMatrix):
        return matrix.blocks.nbytes
    if isinstance(matrix, Int8Matrix):
        return matrix.numbers.nbytes + matrix.scales.nbytes
    if isinstance(matrix, IntegerMatrix):
        return (matrix.quants.numel() + matrix.zeros.numel()) * matrix.bits // 8 + matrix.scales.nbytes
    if isinstance(matrix, ScaledMatrix):
        return matrix.weight.nbytes + matrix.scales.nbytes
    return matrix.nbytes
