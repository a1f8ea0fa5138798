"""The sizes of a decoder that memory depends on, read from a config.json or from GGUF metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile

_EXPERT_WIDTHS: Final = {"mixtral": "intermediate_size", "qwen3_moe": "moe_intermediate_size"}
"""Model types with experts, and the field that has the width of each."""

_BIASED: Final = frozenset({"qwen2"})
"""Model types whose queries, keys and values have biases that config.json does not tell of."""

_NORMED_HEADS: Final = frozenset({"qwen3", "qwen3_moe"})
"""Model types that normalize the queries and keys of each head."""

PLANNED_MODEL_TYPES: Final = ("llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral", "qwen3_moe")
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
        model_type = config.get("model_type")
        if model_type not in PLANNED_MODEL_TYPES:
            raise CheckpointError(
                f"config.json: model_type {model_type!r} cannot be planned; these can: {', '.join(PLANNED_MODEL_TYPES)}"
            )
        return _count(_Sizes(config, "config.json"), str(model_type))

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

    def optional(self, name: str) -> int | None:
        return None if self._values.get(self._prefix + name) is None else self.size(name)

    def is_set(self, name: str) -> bool:
        return bool(self._values.get(self._prefix + name))


def _count(sizes: _Sizes, model_type: str) -> ModelShape:
    hidden, num_layers = sizes.size("hidden_size"), sizes.size("num_hidden_layers")
    num_heads = sizes.size("num_attention_heads")
    num_kv_heads = sizes.size("num_key_value_heads", num_heads)
    head_dim = sizes.size("head_dim", hidden // num_heads)
    queries, keys = num_heads * head_dim, num_kv_heads * head_dim
    width = sizes.size(_EXPERT_WIDTHS.get(model_type, "intermediate_size"))
    num_experts, router = 1, 0
    if model_type in _EXPERT_WIDTHS:
        num_experts = sizes.size("num_local_experts", sizes.optional("num_experts"))
        router = num_experts * hidden
    matrices = hidden * (2 * queries + 2 * keys) + num_experts * 3 * hidden * width
    others = 2 * hidden + router + _num_biases(sizes, model_type, hidden, queries + 2 * keys, width)
    if model_type in _NORMED_HEADS:
        others += 2 * head_dim
    embeddings = sizes.size("vocab_size") * hidden * (1 if sizes.is_set("tie_word_embeddings") else 2)
    return ModelShape(
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_context=sizes.size("max_position_embeddings"),
        num_matrix_parameters=num_layers * matrices,
        num_other_parameters=num_layers * others + embeddings + hidden,
    )


def _num_biases(sizes: _Sizes, model_type: str, hidden: int, qkv: int, width: int) -> int:
    """Of one layer."""
    if model_type in _BIASED:
        return qkv
    attention = qkv + hidden if sizes.is_set("attention_bias") else 0
    return attention + (2 * width + hidden if sizes.is_set("mlp_bias") else 0)
