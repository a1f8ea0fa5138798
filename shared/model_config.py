"""What a model is: sizes, layers, positions, end tokens; read from a Hugging Face config.json or from GGUF metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, get_args

from shared.architectures import ARCHITECTURES, Architecture
from shared.checkpoint import Checkpoint
from shared.config_fields import ConfigFields, read_json, token_ids
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile
from shared.layer_config import ExpertsConfig, LayerConfig, read_experts, read_layers
from shared.rotary_config import RopeScaling, RotaryConfig, read_gguf_rotary, read_rotary

SERVED_GGUF_ARCHITECTURES: Final = {"llama": "LlamaForCausalLM"}
"""By the names of llama.cpp."""

Activation = Literal["silu", "gelu_pytorch_tanh"]

_END_OF_TURN: Final = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>")
"""Control tokens that end an assistant's turn, where a GGUF file does not name them by key."""

_CONTROL_TOKEN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder.

    Attributes:
        architecture: By transformers' name.
        rotary: How layers that see everything rotate queries and keys.
        layers: One for each of `num_hidden_layers`; none where transformers' code computes.
        attention_bias: Whether q, k and v have biases.
        attention_scale: Multiplied into q.k.
        attention_soft_cap: Of scores, see `PagedAttention`.
        logits_soft_cap: As `attention_soft_cap`, of logits.
        embedding_scale: Multiplied into embeddings.
        residual_scale: Multiplied into what a layer adds.
        logits_scale: Multiplied into logits.
        dtype: In which the checkpoint was saved, by PyTorch's name.
        eos_token_ids: Every token that ends an answer.
        quantization: `quantization_config`, of a checkpoint whose matrices are quantized.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rotary: RotaryConfig
    layers: tuple[LayerConfig, ...]
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    experts: ExpertsConfig | None = None
    activation: Activation = "silu"
    attention_scale: float
    attention_soft_cap: float | None = None
    logits_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    quantization: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads"
            )

    @property
    def is_native(self) -> bool:
        """Whether our decoder computes it; otherwise transformers' code does, on our cache."""
        return self.architecture in ARCHITECTURES

    @property
    def rope_theta(self) -> float | None:
        """The base of the rotary frequencies."""
        return self.rotary.theta

    @property
    def rope_scaling(self) -> RopeScaling:
        """How they are stretched."""
        return self.rotary.scaling

    @property
    def max_context(self) -> int:
        """Tokens this model can attend to."""
        return self.rotary.stretched(self.max_position_embeddings)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "ModelConfig":
        """Read a checkpoint's configuration.

        Raises:
            CheckpointError: it cannot be read, or the model is of a kind that is not served.
        """
        if checkpoint.format == "gguf":
            return cls.from_gguf(GGUFFile.open(checkpoint.path))
        config = read_json(checkpoint.path / "config.json")
        generation = checkpoint.path / "generation_config.json"
        return cls.from_huggingface(config, read_json(generation) if generation.is_file() else {})

    @classmethod
    def from_huggingface(
        cls, config: Mapping[str, object], generation: Mapping[str, object] | None = None
    ) -> "ModelConfig":
        """Read config.json and generation_config.json, as transformers 4 or 5 write them.

        Raises:
            CheckpointError: a field is missing, or the model is of a kind that is not served.
        """
        named = config.get("architectures")
        name = str(named[0]) if isinstance(named, list) and named else "none"
        if name not in ARCHITECTURES:
            config, architecture = _standard_names(name, config), Architecture()
        else:
            architecture = ARCHITECTURES[name]
        fields = ConfigFields({**architecture.defaults, **config}, "config.json")
        num_heads = fields.get("num_attention_heads", int)
        hidden_size = fields.get("hidden_size", int)
        head_dim = fields.get("head_dim", int, hidden_size // num_heads)
        positions = fields.get("max_position_embeddings", int)
        rotary = read_rotary(fields, head_dim=head_dim, positions=positions)
        bias = fields.get("attention_bias", bool, False)
        ends = [*token_ids(fields.values.get("eos_token_id")), *token_ids((generation or {}).get("eos_token_id"))]
        is_native = name in ARCHITECTURES
        return cls(
            architecture=name,
            hidden_size=hidden_size,
            intermediate_size=fields.get("intermediate_size", int, None if is_native else 4 * hidden_size),
            num_hidden_layers=fields.get("num_hidden_layers", int),
            num_attention_heads=num_heads,
            num_key_value_heads=fields.get("num_key_value_heads", int, num_heads),
            head_dim=head_dim,
            vocab_size=fields.get("vocab_size", int),
            max_position_embeddings=positions,
            rms_norm_eps=fields.get("rms_norm_eps", float, 1e-6),
            rotary=rotary,
            layers=read_layers(fields, architecture, rotary, head_dim=head_dim) if is_native else (),
            experts=read_experts(fields, architecture),
            tie_word_embeddings=fields.get("tie_word_embeddings", bool, False),
            attention_bias=bias if architecture.qkv_bias is None else architecture.qkv_bias,
            output_bias=bias if architecture.output_bias is None else architecture.output_bias,
            mlp_bias=fields.get("mlp_bias", bool, False),
            activation=_activation(fields) if is_native else "silu",
            attention_scale=_attention_scale(fields, head_dim),
            attention_soft_cap=fields.optional("attn_logit_softcapping", float),
            logits_soft_cap=fields.optional("final_logit_softcapping", float),
            embedding_scale=_embedding_scale(fields, architecture, hidden_size),
            residual_scale=fields.get("residual_multiplier", float, 1.0),
            logits_scale=1.0 / fields.get("logits_scaling", float, 1.0),
            dtype=fields.get("dtype", str, fields.get("torch_dtype", str, "float32")).removeprefix("torch."),
            bos_token_id=next(iter(token_ids(fields.values.get("bos_token_id"))), None),
            eos_token_ids=tuple(dict.fromkeys(ends)),
            quantization=fields.optional("quantization_config", dict),
        )

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read the metadata and the tensors' names of a GGUF file.

        Raises:
            CheckpointError: a key is missing, or the model is of a kind that is not served.
        """
        fields = ConfigFields(file.metadata, str(file.path))
        kind = fields.get("general.architecture", str)
        if kind not in SERVED_GGUF_ARCHITECTURES:
            _refuse(kind, SERVED_GGUF_ARCHITECTURES)
        model = ConfigFields(file.metadata, str(file.path), prefix=f"{kind}.")
        num_heads = model.get("attention.head_count", int)
        hidden_size = model.get("embedding_length", int)
        head_dim = model.get("attention.key_length", int, hidden_size // num_heads)
        if model.get("rope.dimension_count", int, head_dim) != head_dim or model.get("expert_count", int, 0):
            raise CheckpointError(f"{file.path} has partial rotary embeddings or experts, which are not served")
        positions = model.get("context_length", int)
        num_layers = model.get("block_count", int)
        rotary = read_gguf_rotary(model, head_dim=head_dim, positions=positions)
        return cls(
            architecture=SERVED_GGUF_ARCHITECTURES[kind],
            hidden_size=hidden_size,
            intermediate_size=model.get("feed_forward_length", int),
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=model.get("attention.head_count_kv", int, num_heads),
            head_dim=head_dim,
            vocab_size=file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0,
            max_position_embeddings=positions,
            rms_norm_eps=model.get("attention.layer_norm_rms_epsilon", float, 1e-5),
            rotary=rotary,
            layers=(LayerConfig(rotary=rotary),) * num_layers,
            tie_word_embeddings="output.weight" not in file.tensors,
            attention_bias="blk.0.attn_q.bias" in file.tensors,
            output_bias="blk.0.attn_output.bias" in file.tensors,
            mlp_bias="blk.0.ffn_up.bias" in file.tensors,
            attention_scale=head_dim**-0.5,
            dtype="float32",
            bos_token_id=next(iter(token_ids(fields.values.get("tokenizer.ggml.bos_token_id"))), None),
            eos_token_ids=_gguf_eos_token_ids(fields),
        )


def _refuse(architecture: str, served: Mapping[str, object]) -> NoReturn:
    raise CheckpointError(f"architecture {architecture!r} is not served; these are: {', '.join(served)}")


def _standard_names(architecture: str, config: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a config that only transformers knows, under the names that most others have."""
    # Only models outside of our families need this: a second of import.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING or not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        _refuse(architecture, {**ARCHITECTURES, "what transformers runs as a causal language model": None})
    known = CONFIG_MAPPING[kind].from_dict(dict(config))
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "max_position_embeddings")
    found = {name: getattr(known, name, None) for name in (*wanted, "vocab_size", "eos_token_id", "bos_token_id")}
    named_length = found["max_position_embeddings"] or getattr(known, "seq_length", None)
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    quantization = config.get("quantization_config")
    return {
        **found,
        "max_position_embeddings": named_length or _DEFAULT_POSITIONS,
        "dtype": dtype,
        "quantization_config": quantization,
    }


_DEFAULT_POSITIONS: Final = 2048
"""Of models that know no limit."""


def _activation(fields: ConfigFields) -> Activation:
    named = fields.get("hidden_activation", str, fields.get("hidden_act", str, "silu"))
    for served in get_args(Activation):
        if named == served:
            return served  # type: ignore[no-any-return]
    raise CheckpointError(f"{fields.source}: hidden_act is {named!r}, served are {', '.join(get_args(Activation))}")


def _attention_scale(fields: ConfigFields, head_dim: int) -> float:
    if (multiplier := fields.optional("attention_multiplier", float)) is not None:
        return multiplier
    return float(fields.get("query_pre_attn_scalar", float, float(head_dim)) ** -0.5)


def _embedding_scale(fields: ConfigFields, architecture: Architecture, hidden_size: int) -> float:
    return float(hidden_size**0.5) if architecture.scales_embeddings else fields.get("embedding_multiplier", float, 1.0)


def _gguf_eos_token_ids(fields: ConfigFields) -> tuple[int, ...]:
    named = [fields.values.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    tokens, types = (fields.values.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    ends = [token for value in named for token in token_ids(value)]
    if isinstance(tokens, list) and isinstance(types, list):
        ends += [
            token
            for token, (text, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == _CONTROL_TOKEN and text in _END_OF_TURN
        ]
    return tuple(dict.fromkeys(ends))
