"""One model's memory, as numbers for people and programs."""

from typing import NamedTuple

from pagestream.planning.memory import WEIGHT_FORMATS, Fit, Gpu, Load, can_share, fewest_gpus, fit
from pagestream.planning.model_shape import ModelShape
from shared.errors import ConfigurationError


class WeightsPlan(NamedTuple):
    """The model with its weights stored in one way.

    Attributes:
        fit: On as many GPUs as were asked for, else on the fewest that hold the load; None if no number does.
    """

    weights: str
    weight_bytes: int
    fit: Fit | None


class Plan(NamedTuple):
    """Everything that is printed."""

    model: str
    num_parameters: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_model_len: int
    max_num_seqs: int
    block_size: int
    kv_cache_dtype: str
    kv_bytes_per_token: int
    kv_bytes_per_request: int
    kv_bytes_per_batch: int
    gpu_memory_bytes: int
    gpu_memory_utilization: float
    weights: tuple[WeightsPlan, ...]


def make_plan(
    model: str, shape: ModelShape, load: Load, gpu: Gpu, *, kv_cache_dtype: str, num_gpus: int | None = None
) -> Plan:
    """Do the arithmetic.

    Args:
        model: As it is to be called.
        shape: Its sizes.
        load: What is to be held.
        gpu: Where.
        kv_cache_dtype: The name of the load's format.
        num_gpus: How many; None looks for the fewest.

    Raises:
        ConfigurationError: the model has a shorter context, or its heads cannot be dealt out to so many GPUs.
    """
    if load.context > shape.max_context:
        raise ConfigurationError(
            f"--max-model-len {load.context} is more than the model's {shape.max_context} tokens; lower it"
        )
    if num_gpus is not None and not can_share(shape, num_gpus):
        raise ConfigurationError(
            f"--tensor-parallel-size {num_gpus} does not divide {shape.num_attention_heads} attention heads and "
            f"{shape.num_key_value_heads} key-value heads evenly; use a power of two"
        )
    stored = [] if shape.stored_bytes is None else [("as stored", shape.stored_bytes)]
    sizes = stored + [(weights.name, weights.num_bytes(shape)) for weights in WEIGHT_FORMATS]
    return Plan(
        model=model,
        num_parameters=shape.num_parameters,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        max_model_len=load.context,
        max_num_seqs=load.num_sequences,
        block_size=load.block_size,
        kv_cache_dtype=kv_cache_dtype,
        kv_bytes_per_token=load.kv_bytes_per_token(shape),
        kv_bytes_per_request=load.kv_bytes_per_request(shape),
        kv_bytes_per_batch=load.kv_bytes_per_batch(shape),
        gpu_memory_bytes=gpu.memory_bytes,
        gpu_memory_utilization=gpu.utilization,
        weights=tuple(
            WeightsPlan(
                name,
                size,
                fewest_gpus(shape, size, load, gpu)
                if num_gpus is None
                else fit(shape, size, load, gpu, num_gpus=num_gpus),
            )
            for name, size in sizes
        ),
    )
