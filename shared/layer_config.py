"""What differs between the layers of one model: windows, rotation, experts."""

from dataclasses import dataclass, replace

from shared.architectures import Architecture, WindowedLayers
from shared.config_fields import ConfigFields
from shared.rotary_config import RotaryConfig, read_local_rotary

_SIXTH = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """One layer.

    Attributes:
        window: Tokens that a token sees, itself included; None for all.
        rotary: How queries and keys are rotated.
        is_sparse: Its MLP is made of experts.
    """

    rotary: RotaryConfig
    window: int | None = None
    is_sparse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """The experts of a sparse layer.

    Attributes:
        num_chosen: Experts of one token.
        is_normed: Their weights sum to one.
    """

    num_experts: int
    num_chosen: int
    is_normed: bool


def read_experts(fields: ConfigFields, architecture: Architecture) -> ExpertsConfig | None:
    """The experts of config.json, if the family has any."""
    if architecture.experts is None:
        return None
    named = "num_local_experts" if fields.values.get("num_experts") is None else "num_experts"
    is_normed = architecture.norm_topk_prob
    return ExpertsConfig(
        num_experts=fields.get(named, int),
        num_chosen=fields.get("num_experts_per_tok", int),
        is_normed=fields.get("norm_topk_prob", bool, False) if is_normed is None else is_normed,
    )


def read_layers(
    fields: ConfigFields, architecture: Architecture, rotary: RotaryConfig, *, head_dim: int
) -> tuple[LayerConfig, ...]:
    """The layers of config.json.

    Args:
        fields: Of config.json.
        architecture: What the family leaves to its code.
        rotary: How layers without a window rotate.
        head_dim: Of the model.
    """
    count = fields.get("num_hidden_layers", int)
    local = read_local_rotary(fields, head_dim=head_dim) if architecture.has_local_rotary else rotary
    windows = _windows(fields, architecture, count)
    rotated, sparse = _rotated(fields, count), _sparse(fields, architecture, count)
    unrotated = replace(rotary, theta=None)
    return tuple(
        LayerConfig(
            window=windows[index],
            rotary=unrotated if not rotated[index] else rotary if windows[index] is None else local,
            is_sparse=sparse[index],
        )
        for index in range(count)
    )


def _windows(fields: ConfigFields, architecture: Architecture, count: int) -> list[int | None]:
    window = fields.get("sliding_window", int, 0) or None
    if not fields.get("use_sliding_window", bool, True):
        window = None
    kinds = fields.values.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == count:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    late = fields.get("max_window_layers", int, 0)
    pattern = fields.get("sliding_window_pattern", int, _SIXTH)
    has_window: dict[WindowedLayers, list[bool]] = {
        "none": [False] * count,
        "all": [True] * count,
        "late": [index >= late for index in range(count)],
        "even": [index % 2 == 0 for index in range(count)],
        "all but every sixth": [(index + 1) % pattern != 0 for index in range(count)],
    }
    return [window if has_one else None for has_one in has_window[architecture.windowed_layers]]


def _rotated(fields: ConfigFields, count: int) -> list[bool]:
    listed = fields.values.get("no_rope_layers")
    if isinstance(listed, list) and len(listed) == count:
        return [bool(item) for item in listed]  # 1 where positions are rotated, in spite of the name
    interval = fields.get("no_rope_layer_interval", int, 0)
    return [not interval or (index + 1) % interval != 0 for index in range(count)]


def _sparse(fields: ConfigFields, architecture: Architecture, count: int) -> list[bool]:
    if architecture.experts is None:
        return [False] * count
    dense = fields.values.get("mlp_only_layers")
    step = fields.get("decoder_sparse_step", int, 1)
    return [(index + 1) % step == 0 and not (isinstance(dense, list) and index in dense) for index in range(count)]
