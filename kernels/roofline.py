"""What each kernel of a step must move and compute, and how long that takes a GPU at best: predictions by arithmetic.

Every number is moved once. Sizes are in bytes, times in seconds.

Source: Williams, Waterman and Patterson, "Roofline", 2009; of the GPUs, their makers' data sheets, without sparsity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

GpuName = Literal["h100", "a100", "mi300x"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's roof.

    Attributes:
        name: As its maker calls it.
        memory_bytes: Of its memory.
        bytes_per_s: From memory and to it.
        flops_per_s: Of its matrix units by bf16 or fp16, with fp32 sums.
        fp8_flops_per_s: As `flops_per_s`, of what our kernels multiply in fp8 (e4m3); None where they widen it.
    """

    name: str
    memory_bytes: float
    bytes_per_s: float
    flops_per_s: float
    fp8_flops_per_s: float | None = None


GPUS: Final[Mapping[GpuName, Gpu]] = {
    "h100": Gpu("H100 SXM", 80e9, 3.35e12, 989.4e12, 1978.9e12),
    "a100": Gpu("A100 SXM 80 GB", 80e9, 2.039e12, 312e12),
    "mi300x": Gpu("MI300X", 192e9, 5.3e12, 1307.4e12),
}

_ACTIVATION_BYTES: Final = 2.0
_LOGIT_BYTES: Final = 4.0


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the layers' matrices are stored.

    Attributes:
        bytes_per_weight: Scales and zero points included.
        is_fp8: Activations are rounded to fp8 as well, where the GPU multiplies that.
    """

    name: str
    bytes_per_weight: float
    is_fp8: bool = False


BF16: Final = WeightFormat("bf16", 2.0)
FP8: Final = WeightFormat("fp8", 1.0 + 4 / 128**2, is_fp8=True)
INT4: Final = WeightFormat("int4, groups of 128", 0.5 + (2 + 0.5) / 128)
WEIGHT_FORMATS: Final = (BF16, FP8, INT4)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSize:
    """A decoder with gated MLPs and activations in 16 bits; embedding and head stay in 16 bits too."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    weights: WeightFormat = BF16
    kv_bytes_per_number: float = 2.0

    @property
    def qkv_features(self) -> int:
        """Of queries, keys and values together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def kv_bytes_per_token(self) -> float:
        """In all layers."""
        return self.num_layers * self.kv_bytes_per_layer

    @property
    def kv_bytes_per_layer(self) -> float:
        """Keys and values of a token."""
        return 2 * self.num_kv_heads * self.head_dim * self.kv_bytes_per_number


LLAMA_8B: Final = DecoderSize(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
)
"""Llama 3.1 8B."""


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step computes.

    Attributes:
        num_tokens: Through all layers.
        num_sampled: Of which logits are computed.
        num_context_tokens: Keys that are read: each sequence's context, summed.
        num_pairs: Of a query and a key it sees, summed.
    """

    num_tokens: int
    num_sampled: int
    num_context_tokens: int
    num_pairs: int

    @classmethod
    def decode(cls, num_seqs: int, context: int) -> "StepLoad":
        """One token each of some sequences, whose contexts are so long with it."""
        return cls(num_seqs, num_seqs, num_seqs * context, num_seqs * context)

    @classmethod
    def prefill(cls, num_tokens: int) -> "StepLoad":
        """A prompt."""
        return cls(num_tokens, 1, num_tokens, num_tokens * (num_tokens + 1) // 2)


@dataclass(frozen=True, slots=True)
class KernelWork:
    """What a kernel does in all layers of a step.

    Attributes:
        kernel: Its name.
        num_bytes: Moved.
        flops: By matrix units; 0 where there is next to nothing to compute.
        is_fp8: Whether those are of fp8, see `WeightFormat`.
    """

    kernel: str
    num_bytes: float
    flops: float = 0.0
    is_fp8: bool = False

    def seconds(self, gpu: Gpu, *, bytes_share: float = 1.0, flops_share: float = 1.0) -> float:
        """The longer of moving and computing, at these shares of the roof."""
        peak = gpu.fp8_flops_per_s if self.is_fp8 and gpu.fp8_flops_per_s else gpu.flops_per_s
        return max(self.num_bytes / (gpu.bytes_per_s * bytes_share), self.flops / (peak * flops_share))


def step_work(size: DecoderSize, load: StepLoad) -> tuple[KernelWork, ...]:
    """The kernels of a step, in the order of a layer; embedding first, head and sampling last."""
    tokens, layers, hidden = load.num_tokens, size.num_layers, size.hidden_size
    heads = size.num_heads * size.head_dim
    activation = _ACTIVATION_BYTES

    def linear(kernel: str, in_features: int, out_features: int) -> KernelWork:
        weights = in_features * out_features
        moved = weights * size.weights.bytes_per_weight + tokens * (in_features + out_features) * activation
        return KernelWork(kernel, layers * moved, layers * 2.0 * weights * tokens, size.weights.is_fp8)

    kv_write = size.kv_bytes_per_layer + (size.qkv_features + heads + size.head_dim) * activation
    attended = load.num_context_tokens * size.kv_bytes_per_layer + 2 * tokens * heads * activation
    logits = load.num_sampled * size.vocab_size
    head_bytes = hidden * size.vocab_size * activation + load.num_sampled * hidden * activation + logits * activation
    return (
        KernelWork("embedding", 2 * tokens * hidden * activation),
        KernelWork("norms with the residual", (2 * layers + 1) * 4 * tokens * hidden * activation),
        linear("queries, keys, values", hidden, size.qkv_features),
        KernelWork("rotation and cache write", layers * tokens * kv_write),
        KernelWork("attention", layers * attended, layers * 4.0 * load.num_pairs * heads),
        linear("attention output", heads, hidden),
        linear("gate and up", hidden, 2 * size.intermediate_size),
        KernelWork("SwiGLU", layers * 3 * tokens * size.intermediate_size * activation),
        linear("down", size.intermediate_size, hidden),
        KernelWork("head", head_bytes, 2.0 * hidden * logits),
        KernelWork("sampling", logits * _LOGIT_BYTES),
    )


ASSUMED_BYTES_SHARE: Final = 0.8
ASSUMED_FLOPS_SHARE: Final = 0.6
ASSUMED_OVERHEAD_S: Final = 5e-4
"""What kernels reach of the roof, and what a step takes beside them: guesses, until `make gpu-check` has said."""


def roof_seconds(size: DecoderSize, load: StepLoad, gpu: Gpu) -> float:
    """No step can be faster: its kernels one after another, each at its roof."""
    return sum(work.seconds(gpu) for work in step_work(size, load))


def expected_seconds(size: DecoderSize, load: StepLoad, gpu: Gpu) -> float:
    """A step's time at the shares that are assumed above."""
    if load.num_tokens == 0:
        return ASSUMED_OVERHEAD_S
    return ASSUMED_OVERHEAD_S + sum(
        work.seconds(gpu, bytes_share=ASSUMED_BYTES_SHARE, flops_share=ASSUMED_FLOPS_SHARE)
        for work in step_work(size, load)
    )
