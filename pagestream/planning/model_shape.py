"""The sizes of a decoder that memory depends on, read from a config.json or from GGUF metadata."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import prod
from typing import Final

from shared.architectures import ARCHITECTURES
from shared.config_fields import ConfigFields
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile
from shared.model_config import ModelConfig

_ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""The families' names, by `model_type`."""

PLANNED_MODEL_TYPES: Final = tuple(_ARCHITECTURES)
"""Decoders whose parameters can be counted from config.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One decoder.

    Attributes:
        num_matrix_parameters: Weights of the layers' linear maps, which quantization rounds.
        num_other_parameters: Embedding, head, norms and biases, which stay in 16 bits.
        stored_bytes: What the checkpoint takes as it is stored; None where no file tells.
    """

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_context: int
    num_matrix_parameters: int
    num_other_parameters: int
    stored_bytes: int | None = None

    @property
    def num_parameters(self) -> int:
        """Of all kinds."""
        return self.num_matrix_parameters + self.num_other_parameters

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "ModelShape":
        """Count a config.json's parameters.

        Raises:
            CheckpointError: the model is of a kind that cannot be counted, or a field is missing.
        """
        model_type = str(config.get("model_type"))
        if model_type not in _ARCHITECTURES:
            raise CheckpointError(
                f"config.json: model_type {model_type!r} cannot be planned; these can: {', '.join(PLANNED_MODEL_TYPES)}"
            )
        name = _ARCHITECTURES[model_type]
        return _count(
            ModelConfig.from_huggingface({**config, "architectures": [name]}), ConfigFields(config, "config.json")
        )

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelShape":
        """Count a file's tensors.

        Raises:
            CheckpointError: a key is missing.
        """
        prefix = f"{file.metadata.get('general.architecture')}."
        sizes = _Sizes(file.metadata, str(file.path), prefix=prefix)
        num_heads = sizes.size("attention.head_count")
        matrices = [t.shape for t in file.tensors.values() if t.name.startswith("blk.") and len(t.shape) > 1]
        num_matrix_parameters = sum(map(prod, matrices))
        return cls(
            num_hidden_layers=sizes.size("block_count"),
            num_attention_heads=num_heads,
            num_key_value_heads=sizes.size("attention.head_count_kv", num_heads),
            head_dim=sizes.size("attention.key_length", sizes.size("embedding_length") // num_heads),
            max_context=sizes.size("context_length"),
            num_matrix_parameters=num_matrix_parameters,
            num_other_parameters=sum(prod(t.shape) for t in file.tensors.values()) - num_matrix_parameters,
            stored_bytes=sum(t.data.nbytes for t in file.tensors.values()),
        )


class _Sizes:
    """Reads whole numbers above 0, and says in whose file one is missing."""

    def __init__(self, values: Mapping[str, object], source: str, *, prefix: str = "") -> None:
        self._values = values
        self._source = source
        self._prefix = prefix

    def size(self, name: str, default: int | None = None) -> int:
        value = self._values.get(self._prefix + name)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self._source}: {self._prefix}{name} is {value!r}, expected a whole number above 0")
        return value


def _count(config: ModelConfig, fields: ConfigFields) -> ModelShape:
    """As the family's description has it; fields: of its config.json, for the widths of experts."""
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    hidden, architecture = config.hidden_size, ARCHITECTURES[config.architecture]
    matrices = config.num_hidden_layers * hidden * (2 * queries + 2 * keys)
    norms = sum(name is not None for name in astuple(architecture.norms))
    others = norms * hidden
    others += queries + 2 * keys if config.attention_bias else 0
    others += hidden if config.output_bias else 0
    others += {None: 0, "each head": 2 * config.head_dim, "all heads": queries + keys}[architecture.query_key_norm]
    others *= config.num_hidden_layers
    for layer in config.layers:
        if layer.is_sparse and config.experts is not None:
            width = fields.get("moe_intermediate_size", int, config.intermediate_size)
            shared = fields.get("shared_expert_intermediate_size", int, 0)
            matrices += 3 * hidden * (config.experts.num_experts * width + shared)
            others += hidden * (config.experts.num_experts + bool(shared))
        else:
            matrices += 3 * hidden * config.intermediate_size
            others += 2 * config.intermediate_size + hidden if config.mlp_bias else 0
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return ModelShape(
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_context=config.max_context,
        num_matrix_parameters=matrices,
        num_other_parameters=others + embeddings + hidden,
    )
