"""Loads a checkpoint as the model that computes it: our decoder, or transformers' code."""

import torch

from gpu_worker.models.decoder import Decoder
from gpu_worker.models.model import Model
from gpu_worker.precision import Precision
from gpu_worker.quantization import QuantizedWeights
from gpu_worker.weights import open_weights
from kernels.ops import Ops
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, ConfigurationError
from shared.model_config import ModelConfig


def load_model(
    checkpoint: Checkpoint,
    config: ModelConfig,
    ops: Ops,
    precision: Precision,
    device: torch.device,
    *,
    max_positions: int,
) -> tuple[Model, ModelConfig, Ops]:
    """Load a model; also returns what its cache must be made by.

    Args:
        checkpoint: What to load.
        config: Of the checkpoint.
        ops: To compute with.
        precision: The model's numbers.
        device: To put it on.
        max_positions: Tokens of one sequence at most.

    Raises:
        CheckpointError: its files cannot be read, or it is of a kind that is not served.
        ConfigurationError: it cannot be rounded as `precision` says.
    """
    if not config.is_native:
        # Only these models need it: seconds of import.
        from gpu_worker.models.transformers_model import TransformersModel

        if config.quantization is not None:
            raise CheckpointError(
                f"{config.architecture} is computed by transformers' code, which reads no quantized checkpoint here; "
                "use the unquantized model"
            )
        if precision.quantization is not None:
            raise ConfigurationError(
                f"--quantization {precision.quantization} rounds the weights of our own decoder, but "
                f"{config.architecture} is computed by transformers' code; leave it out"
            )
        other = TransformersModel.load(checkpoint, config, ops, dtype=precision.activations, device=device)
        if other.ops is not ops and precision.cache != precision.activations:
            raise ConfigurationError(
                f"{config.architecture} keeps its keys and values as {precision.activations}, but --kv-cache-dtype "
                f"asks for {precision.cache}; leave it out"
            )
        return other, other.config, other.ops
    weights = open_weights(
        checkpoint,
        config,
        dtype=precision.activations,
        matrix_dtype=precision.matrices,
        device=device,
        keeps=ops.keeps,
    )
    if precision.quantization is not None:
        weights = QuantizedWeights(weights, precision.quantization, int8_has_blocks=ops.int8_has_blocks)
    return Decoder(config, weights, ops, max_positions=max_positions), config, ops
