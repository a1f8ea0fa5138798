"""How much memory weights, keys and values take, and how many GPUs hold them. Pure arithmetic.

One token's keys and values take 2 x layers x key-value heads x head_dim x bytes a number: queries share them (GQA), so
that the number of attention heads does not matter.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from pagestream.planning.model_shape import ModelShape

_BITS: Final = 8


class WeightFormat(NamedTuple):
    """How weights are stored.

    Attributes:
        matrix_bits: Bits of one weight of a linear map, its share of the scales included.
        other_bits: Bits of everything else.
    """

    name: str
    matrix_bits: float
    other_bits: float = 16

    def num_bytes(self, shape: ModelShape) -> int:
        """Of the whole model."""
        bits = shape.num_matrix_parameters * self.matrix_bits + shape.num_other_parameters * self.other_bits
        return ceil(bits / _BITS)


WEIGHT_FORMATS: Final = (
    WeightFormat("16 bit", 16),
    WeightFormat("8 bit", 8),
    WeightFormat("4 bit", 4 + (16 + 4) / 128),
)
"""bf16 or fp16; fp8 or int8; int4 by AWQ or GPTQ, with a 16-bit scale and a 4-bit zero point for 128 weights."""


class KVFormat(NamedTuple):
    """How keys and values are stored.

    Attributes:
        number_bytes: Of one number.
        scale_bytes: Of what follows the numbers of one token and head.
    """

    number_bytes: int
    scale_bytes: int = 0


KV_FORMATS: Final = {
    "auto": KVFormat(2),
    "fp32": KVFormat(4),
    "fp16": KVFormat(2),
    "bf16": KVFormat(2),
    "fp8": KVFormat(1),
    "int8": KVFormat(1, scale_bytes=4),
}
"""By `--kv-cache-dtype`. "auto" is 16 bit, as on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be held.

    Attributes:
        context: Tokens of one request, prompt and output.
        num_sequences: Requests at the same time.
        block_size: Tokens of a block.
    """

    context: int
    num_sequences: int
    block_size: int
    kv_format: KVFormat

    def kv_bytes_per_token(self, shape: ModelShape, *, num_gpus: int = 1) -> int:
        """On each of the GPUs. Beyond one key-value head a GPU, heads are held more than once."""
        num_heads = ceil(shape.num_key_value_heads / num_gpus)
        row_bytes = shape.head_dim * self.kv_format.number_bytes + self.kv_format.scale_bytes
        return 2 * shape.num_hidden_layers * num_heads * row_bytes

    def kv_bytes_per_request(self, shape: ModelShape) -> int:
        """Of one sequence of `context` tokens."""
        return self.kv_bytes_per_token(shape) * self.context

    def kv_bytes_per_batch(self, shape: ModelShape) -> int:
        """Of all sequences."""
        return self.kv_bytes_per_request(shape) * self.num_sequences

    @property
    def blocks_per_sequence(self) -> int:
        """Of one block table."""
        return ceil(self.context / self.block_size)


class Gpu(NamedTuple):
    """One of several equal GPUs.

    Attributes:
        utilization: Part of the memory that weights and cache may take; activations and the runtime need the rest.
    """

    memory_bytes: int
    utilization: float

    @property
    def usable_bytes(self) -> int:
        """For weights and cache."""
        return int(self.memory_bytes * self.utilization)


class Fit(NamedTuple):
    """A model on some GPUs.

    Attributes:
        num_gpus: That share it by tensor parallelism.
        cache_bytes: For keys and values, on all GPUs together.
        num_blocks: Blocks of the cache; each lies on all GPUs.
        num_sequences: Of the load's context, at the same time.
    """

    num_gpus: int
    cache_bytes: int
    num_blocks: int
    num_sequences: int


def fit(shape: ModelShape, weight_bytes: int, load: Load, gpu: Gpu, *, num_gpus: int) -> Fit:
    """What is left for the cache on so many GPUs, and what that holds; nothing if the weights alone are too large."""
    left = max(0, gpu.usable_bytes - ceil(weight_bytes / num_gpus))
    num_blocks = left // (load.kv_bytes_per_token(shape, num_gpus=num_gpus) * load.block_size)
    return Fit(num_gpus, left * num_gpus, num_blocks, num_blocks // load.blocks_per_sequence)


def fewest_gpus(shape: ModelShape, weight_bytes: int, load: Load, gpu: Gpu) -> Fit | None:
    """The smallest number of GPUs that holds the weights and the load, or None if no number does."""
    for num_gpus in range(1, shape.num_attention_heads + 1):
        if can_share(shape, num_gpus):
            found = fit(shape, weight_bytes, load, gpu, num_gpus=num_gpus)
            if found.num_sequences >= load.num_sequences:
                return found
    return None


def can_share(shape: ModelShape, num_gpus: int) -> bool:
    """Whether the heads can be dealt out evenly: attention heads always, key-value heads as whole ones or copies."""
    kv_heads = shape.num_key_value_heads
    return shape.num_attention_heads % num_gpus == 0 and (kv_heads % num_gpus == 0 or num_gpus % kv_heads == 0)
