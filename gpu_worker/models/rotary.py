"""Rotary position embeddings: the cosines and sines of every position, computed once.

Source: Su et al. 2021; the ways of stretching them as transformers' `modeling_rope_utils` computes them.
"""

import math

import torch
from torch import Tensor

from shared.model_config import ModelConfig, RopeScaling


class RotaryTable:
    """Cosines and sines by position.

    They depend on the position alone. That differs from transformers in one case: "dynamic" scaling there computes a
    prompt longer than the model's positions with the frequencies of the whole prompt's length; here each token has
    those of the length up to itself, as in decoding, so that keys can be shared between prompts and computed in chunks.

    Attributes:
        cos: [max_positions, head_dim / 2].
        sin: As `cos`.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
        divisors: Tensor | None,
    ) -> None:
        """Compute the table.

        Args:
            config: Of the model.
            max_positions: Rows of the table.
            dtype: In which it is kept.
            device: Where it is kept.
            divisors: [head_dim / 2], by which a GGUF file says the frequencies are divided.
        """
        scaling = config.rope_scaling
        frequencies = _frequencies(config, max_positions)
        if divisors is not None:
            frequencies = frequencies / divisors
        angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * frequencies
        scale = _attention_factor(scaling)
        self.cos = (angles.cos() * scale).to(device, dtype)
        self.sin = (angles.sin() * scale).to(device, dtype)

    def at(self, positions: Tensor, *, out: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [num_tokens], each [num_tokens, head_dim / 2], in `out` if it is given."""
        cos, sin = out or (None, None)
        return torch.index_select(self.cos, 0, positions, out=cos), torch.index_select(self.sin, 0, positions, out=sin)


def _frequencies(config: ModelConfig, max_positions: int) -> Tensor:
    """Radians each pair turns from one position to the next, [head_dim / 2] or [max_positions, head_dim / 2]."""
    scaling = config.rope_scaling
    frequencies = 1.0 / config.rope_theta ** _exponents(config.head_dim)
    match scaling.rope_type:
        case "default":
            return frequencies
        case "linear":
            return frequencies / scaling.factor
        case "dynamic":
            return _dynamic(config, max_positions)
        case "yarn":
            return _yarn(config, frequencies)
        case "llama3":
            return _llama3(config, frequencies)


def _exponents(head_dim: int) -> Tensor:
    return torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim


def _dynamic(config: ModelConfig, max_positions: int) -> Tensor:
    factor, trained = config.rope_scaling.factor, config.max_position_embeddings
    length = torch.arange(1, max_positions + 1, dtype=torch.float32).clamp(min=trained)
    growth = (factor * length / trained) - (factor - 1)
    base = config.rope_theta * growth ** (config.head_dim / (config.head_dim - 2))
    return 1.0 / base[:, None] ** _exponents(config.head_dim)


def _llama3(config: ModelConfig, frequencies: Tensor) -> Tensor:
    scaling = config.rope_scaling
    trained = _original_positions(config)
    wavelength = 2 * math.pi / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


def _yarn(config: ModelConfig, frequencies: Tensor) -> Tensor:
    """Source: Peng et al. 2023."""
    scaling, half = config.rope_scaling, config.head_dim // 2

    def pair_that_turns(times: float) -> float:
        ratio = _original_positions(config) / (times * 2 * math.pi)
        return config.head_dim * math.log(ratio) / (2 * math.log(config.rope_theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    ramp = ((torch.arange(half, dtype=torch.float32) - first) / max(last - first, 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _attention_factor(scaling: RopeScaling) -> float:
    if scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return mscale(scaling.mscale) / mscale(scaling.mscale_all_dim)
    return mscale(1.0)


def _original_positions(config: ModelConfig) -> int:
    return config.rope_scaling.original_max_positions or config.max_position_embeddings
