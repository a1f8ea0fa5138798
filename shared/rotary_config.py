"""How a model rotates queries and keys by their positions, read from config.json or GGUF metadata."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from shared.config_fields import ConfigFields
from shared.errors import CheckpointError

RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]

_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched to longer contexts. The names are those of transformers.

    Attributes:
        factor: By how much the context is stretched.
        original_max_positions: Positions of the model before stretching; yarn, llama3 and longrope need it.
        attention_factor: Scales cos and sin; None means the paper's value for `factor`, in yarn and longrope.
        short_factor: Divisors of the frequencies up to `original_max_positions`, of longrope.
        long_factor: Those beyond.
    """

    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_positions: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryConfig:
    """One way to rotate.

    Attributes:
        theta: The base of the frequencies; None if nothing is rotated.
        dim: Numbers of a head that are rotated, the first ones.
    """

    theta: float | None
    dim: int
    scaling: RopeScaling = RopeScaling()

    def stretched(self, positions: int) -> int:
        """Tokens up to which a model with so many positions can attend."""
        scaling = self.scaling
        if scaling.rope_type in {"linear", "dynamic"}:
            return int(positions * scaling.factor)
        if scaling.rope_type == "yarn" and scaling.original_max_positions:
            return max(positions, int(scaling.original_max_positions * scaling.factor))
        return positions


def read_rotary(fields: ConfigFields, *, head_dim: int, positions: int) -> RotaryConfig:
    """What layers that see everything do, and all layers of most models.

    `rope_parameters` are transformers 5's, maybe by kind of layer; `rope_theta` and `rope_scaling` transformers 4's.
    """
    rope, values = _rope_fields(fields, _FULL)
    theta = rope.get("rope_theta", float, fields.get("rope_theta", float, 10_000.0))
    partial = rope.get("partial_rotary_factor", float, fields.get("partial_rotary_factor", float, 1.0))
    original = fields.get(
        "original_max_position_embeddings", int, rope.get("original_max_position_embeddings", int, positions)
    )
    scaling = RopeScaling(
        rope_type=_rope_type(rope.get("rope_type", str, rope.get("type", str, "default"))),
        factor=rope.get("factor", float, positions / original),
        original_max_positions=original,
        low_freq_factor=rope.get("low_freq_factor", float, 1.0),
        high_freq_factor=rope.get("high_freq_factor", float, 4.0),
        attention_factor=rope.optional("attention_factor", float),
        beta_fast=rope.get("beta_fast", float, 32.0),
        beta_slow=rope.get("beta_slow", float, 1.0),
        mscale=rope.optional("mscale", float),
        mscale_all_dim=rope.optional("mscale_all_dim", float),
        truncate=rope.get("truncate", bool, True),
        short_factor=_numbers(values.get("short_factor")),
        long_factor=_numbers(values.get("long_factor")),
    )
    return RotaryConfig(theta=theta, dim=int(head_dim * partial), scaling=scaling)


def read_local_rotary(fields: ConfigFields, *, head_dim: int) -> RotaryConfig:
    """What layers with a window do, in models where they differ: never stretched."""
    rope, _ = _rope_fields(fields, _SLIDING)
    theta = rope.get("rope_theta", float, fields.get("rope_local_base_freq", float, 10_000.0))
    return RotaryConfig(theta=theta, dim=head_dim)


def read_gguf_rotary(model: ConfigFields, *, head_dim: int, positions: int) -> RotaryConfig:
    """What a GGUF file's metadata say."""
    kind = model.get("rope.scaling.type", str, "none")
    scaling = RopeScaling(
        rope_type="default" if kind == "none" else _rope_type(kind),
        factor=model.get("rope.scaling.factor", float, 1.0),
        original_max_positions=model.get("rope.scaling.original_context_length", int, positions),
        beta_fast=model.get("rope.scaling.yarn_beta_fast", float, 32.0),
        beta_slow=model.get("rope.scaling.yarn_beta_slow", float, 1.0),
    )
    return RotaryConfig(theta=model.get("rope.freq_base", float, 10_000.0), dim=head_dim, scaling=scaling)


def _rope_fields(fields: ConfigFields, kind_of_layer: str) -> tuple[ConfigFields, dict[str, object]]:
    found = fields.values.get("rope_parameters") or fields.values.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{fields.source}: rope_scaling is {found!r}, expected an object")
    if _FULL in found or _SLIDING in found:
        found = found.get(kind_of_layer) or {}
    elif kind_of_layer == _SLIDING:
        found = {}
    return fields.within("rope_scaling", found), found


def _numbers(value: object) -> tuple[float, ...]:
    return tuple(float(item) for item in value) if isinstance(value, list) else ()


def _rope_type(kind: str) -> RopeType:
    kind = {"su": "longrope"}.get(kind, kind)
    for served in get_args(RopeType):
        if kind == served:
            return served  # type: ignore[no-any-return]
    raise CheckpointError(f"rope type {kind!r} is not served; these are: {', '.join(get_args(RopeType))}")
