"""How a layer's attention differs from the plain one, in the numbers that the kernels take."""

import math
from dataclasses import dataclass
from typing import Final

from torch import Tensor

LOG2E: Final = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Variant:
    """One layer's attention.

    Attributes:
        scale: Multiplied into q.k.
        window: Tokens that a token sees, itself included; None for all.
        soft_cap: Scores become `soft_cap * tanh(score / soft_cap)`; None leaves them.
        sinks: [num_heads], scores of a token that all see and that has no value; None without.
        alibi_slopes: [num_heads], subtracted for each token between query and key; None without.
        key_scale: By which the cache's keys were divided when they were rounded to fp8.
        value_scale: As `key_scale`.
        is_fp8: Whether the cache is in fp8.
    """

    scale: float
    window: int | None
    soft_cap: float | None
    sinks: Tensor | None
    alibi_slopes: Tensor | None
    key_scale: float
    value_scale: float
    is_fp8: bool

    @property
    def score_scale(self) -> float:
        """From q.k to powers of 2."""
        return self.scale * self.key_scale * LOG2E

    @property
    def soft_cap_or_1(self) -> float:
        """Of no meaning where there is no soft cap."""
        return 1.0 if self.soft_cap is None else self.soft_cap

    def constants(self) -> dict[str, bool]:
        """What kernels are compiled for."""
        return {
            "HAS_WINDOW": self.window is not None,
            "HAS_SOFT_CAP": self.soft_cap is not None,
            "HAS_SINKS": self.sinks is not None,
            "HAS_ALIBI": self.alibi_slopes is not None,
            "IS_FP8": self.is_fp8,
        }
