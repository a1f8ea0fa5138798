"""How each family's decoder differs from Llama's, as data: the one decoder reads it, and so does what reads configs.

A new family is an entry here. Numbers (sizes, multipliers, caps) stand in the checkpoint's own config.json; this says
what config.json leaves to the modelling code. Names are those of transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

WindowedLayers = Literal["none", "all", "late", "even", "all but every sixth"]
"""Which layers have the sliding window, where config.json does not list them: "late" is from `max_window_layers` on,
"even" those of even index, and of six layers the last one may see everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormNames:
    """A layer's norms; None where there is none. `after` is before the sum with the residual."""

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """A sparse layer's tensors.

    Attributes:
        expert: Of one expert, by its number.
        shared: The expert that every token has beside its own, weighted by the sigmoid of `shared_gate`.
    """

    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}"
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    shared: str | None = None
    shared_gate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One family. Without arguments: Llama's.

    Attributes:
        norms: See `NormNames`.
        norm_offset: Added to the weights of every norm.
        query_key_norm: Queries and keys are normed, each head by itself or all heads of a token at once.
        qkv: Tensors of queries, keys and values, in this order.
        gate_up: Tensors of the MLP's gate and what it gates.
        qkv_bias: Whether qkv have biases; None means what `attention_bias` says.
        output_bias: As `qkv_bias`, of the attention's output.
        experts: The names of a sparse layer's tensors, if the family has such layers.
        norm_topk_prob: Whether the chosen experts' weights are made to sum to one; None means what the config says.
        windowed_layers: See `WindowedLayers`.
        has_local_rotary: Layers with a window rotate by `rope_local_base_freq`.
        scales_embeddings: Embeddings are multiplied by sqrt(hidden_size).
        defaults: What config.json may leave out, where it is not as Llama's.
    """

    norms: NormNames = NormNames()
    norm_offset: float = 0.0
    query_key_norm: Literal["each head", "all heads"] | None = None
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    experts: ExpertNames | None = None
    norm_topk_prob: bool | None = None
    windowed_layers: WindowedLayers = "none"
    has_local_rotary: bool = False
    scales_embeddings: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)


_SANDWICH: Final = NormNames(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)
_GEMMA: Final = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_WITHOUT_WINDOW: Final = {"use_sliding_window": False}
"""Unless config.json says otherwise."""

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "LlamaForCausalLM": Architecture(),
    "MistralForCausalLM": Architecture(windowed_layers="all"),
    "Qwen2ForCausalLM": Architecture(
        qkv_bias=True, output_bias=False, windowed_layers="late", defaults=_WITHOUT_WINDOW
    ),
    "Qwen3ForCausalLM": Architecture(
        query_key_norm="each head", windowed_layers="late", defaults=_WITHOUT_WINDOW | {"head_dim": 128}
    ),
    "Gemma2ForCausalLM": Architecture(
        norms=_SANDWICH,
        norm_offset=1.0,
        windowed_layers="even",
        scales_embeddings=True,
        defaults=_GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "Gemma3ForCausalLM": Architecture(
        norms=_SANDWICH,
        norm_offset=1.0,
        query_key_norm="each head",
        windowed_layers="all but every sixth",
        has_local_rotary=True,
        scales_embeddings=True,
        defaults=_GEMMA | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0},
    ),
    "Phi3ForCausalLM": Architecture(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",), windowed_layers="all"),
    "SmolLM3ForCausalLM": Architecture(
        defaults=_WITHOUT_WINDOW | {"rope_theta": 2_000_000.0, "no_rope_layer_interval": 4, "tie_word_embeddings": True}
    ),
    "Olmo2ForCausalLM": Architecture(
        norms=NormNames(
            before_attention=None,
            after_attention="post_attention_layernorm",
            before_mlp=None,
            after_mlp="post_feedforward_layernorm",
        ),
        query_key_norm="all heads",
        defaults={"rms_norm_eps": 1e-5},
    ),
    "GraniteForCausalLM": Architecture(defaults={"attention_multiplier": 1.0}),
    "MixtralForCausalLM": Architecture(
        windowed_layers="all",
        experts=ExpertNames(
            router="block_sparse_moe.gate",
            expert="block_sparse_moe.experts.{}",
            gate_up=("w1", "w3"),
            down="w2",
        ),
        norm_topk_prob=True,
        defaults={"rms_norm_eps": 1e-5, "num_experts_per_tok": 2},
    ),
    "Qwen2MoeForCausalLM": Architecture(
        qkv_bias=True,
        output_bias=False,
        experts=ExpertNames(shared="mlp.shared_expert", shared_gate="mlp.shared_expert_gate"),
        defaults=_WITHOUT_WINDOW | {"num_experts_per_tok": 4},
    ),
    "Qwen3MoeForCausalLM": Architecture(
        query_key_norm="each head",
        experts=ExpertNames(),
        windowed_layers="all",
        defaults=_WITHOUT_WINDOW | {"num_experts_per_tok": 8},
    ),
}
