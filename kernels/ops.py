"""The table of ops a model is built from, one for each kind of device. A new kernel enters here and nowhere else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels import cpu, cpu_attention, cpu_sampling, reference, reference_linear
from kernels.arguments import Embedding, Linear, Matrix, PagedAttention, PagedBatch, SamplingTensors

CPU_EFFICIENT_TOKENS: Final = 64
"""By AVX2 a linear layer takes as long for each of 32 rows as for each of 128 (docs/performance.md)."""


def keeps_nothing(_: Matrix) -> bool:
    """Of ops that multiply no quantized checkpoint's own numbers."""
    return False


@dataclass(frozen=True, slots=True)
class Ops:
    """What a device can do. `kernels.reference` documents each op; every other one does the same.

    Attributes:
        name: For the log.
        is_mixed_precision: Matrices of any dtype and blocks of GGUF are multiplied as they are stored, with fp32
            activations. Otherwise matrices and activations are of one dtype.
        int8_has_blocks: Activations in int8 are rounded and multiplied block by block, by blocks of GGUF; otherwise by
            rows, which is faster where the processor sums products of bytes.
        keeps: Which `IntegerMatrix` and `ScaledMatrix` are multiplied as a checkpoint has them; others must be
            dequantized, or be brought into blocks.
        caches_fp8: Keys and values may be kept in fp8 (e4m3).
        has_sinks: Attention takes `sinks`.
        num_efficient_tokens: A step with so many tokens takes as long for each as a larger one; None where a larger one
            is always faster.
        capture: None where there is no such thing. Runs a function made of these ops alone, and returns one that
            computes the same anew from what then stands in the tensors that the first one read, into the tensor that
            it returned. The numbers there are valid until anything else that was captured runs.
        captures_padded: What is captured may hold rows of padding: tokens of slot -1, sequences that compute no token.
    """

    name: str
    is_mixed_precision: bool
    pack_linear: Callable[[Sequence[Matrix], Tensor | None], Linear]
    pack_embedding: Callable[[Matrix], Embedding]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotate_and_write: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]
    scale: Callable[[Tensor, float], Tensor]
    silu_and_mul: Callable[[Tensor], Tensor]
    gelu_and_mul: Callable[[Tensor], Tensor]
    norm_heads: Callable[[Tensor, Tensor, Tensor, float, int], Tensor]
    plan_attention: Callable[[PagedBatch], PagedAttention]
    argmax: Callable[[Tensor], tuple[Tensor, Tensor]]
    sample: Callable[[Tensor, SamplingTensors], Tensor]
    cache_shapes: Callable[[int, int, int, int], tuple[tuple[int, ...], tuple[int, ...]]]
    copy_blocks: Callable[[Tensor, Tensor, Tensor], None] = reference.copy_blocks
    keeps: Callable[[Matrix], bool] = keeps_nothing
    int8_has_blocks: bool = False
    caches_fp8: bool = False
    has_sinks: bool = False
    captures_padded: bool = False
    num_efficient_tokens: int | None = None
    capture: Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None = None


REFERENCE: Final = Ops(
    name="reference",
    is_mixed_precision=False,
    pack_linear=reference_linear.pack_linear,
    pack_embedding=reference_linear.pack_embedding,
    rms_norm=reference.rms_norm,
    add_rms_norm=reference.add_rms_norm,
    rotate_and_write=reference.rotate_and_write,
    add=reference.add,
    scale=reference.scale,
    silu_and_mul=reference.silu_and_mul,
    gelu_and_mul=reference.gelu_and_mul,
    norm_heads=reference.norm_heads,
    plan_attention=reference.plan_attention,
    argmax=reference.argmax,
    sample=reference.sample,
    cache_shapes=reference.cache_shapes,
    has_sinks=True,
)

CPU: Final = Ops(
    name="torch",
    is_mixed_precision=False,
    pack_linear=cpu.pack_linear,
    pack_embedding=cpu.pack_embedding,
    rms_norm=cpu.rms_norm,
    add_rms_norm=cpu.add_rms_norm,
    rotate_and_write=cpu.rotate_and_write,
    add=reference.add,
    scale=reference.scale,
    silu_and_mul=cpu.silu_and_mul,
    gelu_and_mul=reference.gelu_and_mul,
    norm_heads=reference.norm_heads,
    plan_attention=cpu_attention.plan_attention,
    argmax=reference.argmax,
    sample=cpu_sampling.sample,
    cache_shapes=reference.cache_shapes,
    num_efficient_tokens=CPU_EFFICIENT_TOKENS,
)


def select(device: torch.device) -> Ops:
    """The best ops there are for a device without a compiler."""
    return CPU if device.type == "cpu" else REFERENCE
