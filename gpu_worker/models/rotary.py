"""Rotary position embeddings: the cosines and sines of every position, computed once.

Source: Su et al. 2021; the ways of stretching them as transformers' `modeling_rope_utils` computes them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.model_config import ModelConfig
from shared.rotary_config import RotaryConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of a step's tokens, each [num_tokens, head_dim / 2]."""


class RotaryTables:
    """A table for each way in which a model's layers rotate."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
        divisors: Tensor | None,
    ) -> None:
        """Compute the tables; arguments as of `RotaryTable`."""
        ways = list(dict.fromkeys(layer.rotary for layer in config.layers))
        self._tables = [
            RotaryTable(config, way, max_positions=max_positions, dtype=dtype, device=device, divisors=divisors)
            for way in ways
        ]
        self.table_of_layer = [ways.index(layer.rotary) for layer in config.layers]

    def at(self, positions: Tensor, *, out: Sequence[Rotation] | None = None) -> tuple[Rotation, ...]:
        """Each table's cosines and sines of positions [num_tokens], in `out` if it is given."""
        given: Sequence[Rotation | None] = out or [None] * len(self._tables)
        return tuple(table.at(positions, out=one) for table, one in zip(self._tables, given, strict=True))


class RotaryTable:
    """Cosines and sines by position.

    They depend on the position alone. That differs from transformers in two cases. "dynamic" scaling there computes a
    prompt longer than the model's positions with the frequencies of the whole prompt's length; here each token has
    those of the length up to itself, as in decoding, so that keys can be shared between prompts and computed in chunks.
    "longrope" has there the long factors for sequences that are longer than the model was before stretching; here, as
    in vLLM, for all sequences if such are served at all.

    Attributes:
        cos: [max_positions, head_dim / 2]; 1 where a head's numbers are not rotated.
        sin: As `cos`; 0 there.
    """

    def __init__(
        self,
        config: ModelConfig,
        rotary: RotaryConfig,
        *,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
        divisors: Tensor | None,
    ) -> None:
        """Compute the table.

        Args:
            config: Of the model.
            rotary: The way to rotate.
            max_positions: Rows of the table.
            dtype: In which it is kept.
            device: Where it is kept.
            divisors: [head_dim / 2], by which a GGUF file says the frequencies are divided.
        """
        half = config.head_dim // 2
        if rotary.theta is None:
            self.cos = torch.ones(max_positions, half, dtype=dtype, device=device)
            self.sin = torch.zeros(max_positions, half, dtype=dtype, device=device)
            return
        way = _Way(rotary, rotary.theta, config.max_position_embeddings)
        frequencies = way.frequencies(max_positions)
        if divisors is not None:
            frequencies = frequencies / divisors
        angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * frequencies
        scale = way.attention_factor()
        still = half - angles.shape[1]
        self.cos = torch.nn.functional.pad(angles.cos() * scale, (0, still), value=1.0).to(device, dtype)
        self.sin = torch.nn.functional.pad(angles.sin() * scale, (0, still)).to(device, dtype)

    def at(self, positions: Tensor, *, out: Rotation | None = None) -> Rotation:
        """Cosines and sines of positions [num_tokens], each [num_tokens, head_dim / 2], in `out` if it is given."""
        cos, sin = out or (None, None)
        return torch.index_select(self.cos, 0, positions, out=cos), torch.index_select(self.sin, 0, positions, out=sin)


class _Way:
    """Frequencies of one way to rotate, of a model with so many positions."""

    def __init__(self, rotary: RotaryConfig, theta: float, positions: int) -> None:
        self._scaling = rotary.scaling
        self._theta = theta
        self._dim = rotary.dim
        self._positions = positions
        self._original = rotary.scaling.original_max_positions or positions
        self._exponents = torch.arange(0, rotary.dim, 2, dtype=torch.float32) / rotary.dim

    def frequencies(self, max_positions: int) -> Tensor:
        """Radians each pair turns from one position to the next, [dim / 2] or [max_positions, dim / 2]."""
        scaling = self._scaling
        frequencies = 1.0 / self._theta**self._exponents
        match scaling.rope_type:
            case "default":
                return frequencies
            case "linear":
                return frequencies / scaling.factor
            case "dynamic":
                return self._dynamic(max_positions)
            case "yarn":
                return self._yarn(frequencies)
            case "llama3":
                return self._llama3(frequencies)
            case "longrope":
                is_long = max_positions > self._original
                return frequencies / torch.tensor(scaling.long_factor if is_long else scaling.short_factor)

    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        scaling = self._scaling
        if scaling.rope_type not in {"yarn", "longrope"}:
            return 1.0
        if scaling.attention_factor is not None:
            return scaling.attention_factor
        if scaling.rope_type == "longrope":
            factor = self._positions / self._original
            return math.sqrt(1 + math.log(factor) / math.log(self._original)) if factor > 1 else 1.0
        if scaling.mscale and scaling.mscale_all_dim:
            return self._mscale(scaling.mscale) / self._mscale(scaling.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, weight: float) -> float:
        factor = self._scaling.factor
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    def _dynamic(self, max_positions: int) -> Tensor:
        factor, trained = self._scaling.factor, self._positions
        length = torch.arange(1, max_positions + 1, dtype=torch.float32).clamp(min=trained)
        growth = (factor * length / trained) - (factor - 1)
        base = self._theta * growth ** (self._dim / (self._dim - 2))
        return 1.0 / base[:, None] ** self._exponents

    def _llama3(self, frequencies: Tensor) -> Tensor:
        scaling = self._scaling
        wavelength = 2 * math.pi / frequencies
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        smooth = ((self._original / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies

    def _yarn(self, frequencies: Tensor) -> Tensor:
        """Source: Peng et al. 2023."""
        scaling, dim = self._scaling, self._dim

        def pair_that_turns(times: float) -> float:
            ratio = self._original / (times * 2 * math.pi)
            return dim * math.log(ratio) / (2 * math.log(self._theta))

        first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        ramp = ((torch.arange(dim // 2, dtype=torch.float32) - first) / max(last - first, 0.001)).clamp(0, 1)
        return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)
