"""What a model is: sizes, positions and end tokens, read from a Hugging Face config.json or from GGUF metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeVar, get_args

from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile

SERVED_ARCHITECTURES: Final = ("LlamaForCausalLM", "MistralForCausalLM")
SERVED_GGUF_ARCHITECTURES: Final = ("llama",)

RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3"]

_END_OF_TURN: Final = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>")
"""Control tokens that end an assistant's turn, where a GGUF file does not name them by key."""

_CONTROL_TOKEN: Final = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched to longer contexts. The names are those of transformers.

    Attributes:
        factor: By how much the context is stretched.
        original_max_positions: Positions of the model before stretching; yarn and llama3 need it.
        attention_factor: Scales cos and sin; None means the yarn paper's value for `factor`.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder of the Llama family.

    Attributes:
        dtype: In which the checkpoint was saved, by PyTorch's name.
        sliding_window: Tokens a position looks back on, if the model was made so.
        attention_bias: Whether q, k, v and o have biases.
        eos_token_ids: Every token that ends an answer.
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
    rope_theta: float
    rope_scaling: RopeScaling
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads"
            )

    @property
    def max_context(self) -> int:
        """Tokens this model can attend to; at most its sliding window, up to which full attention is the same."""
        scaling = self.rope_scaling
        longest = self.max_position_embeddings
        if scaling.rope_type in {"linear", "dynamic"}:
            longest = int(longest * scaling.factor)
        elif scaling.rope_type == "yarn" and scaling.original_max_positions:
            longest = max(longest, int(scaling.original_max_positions * scaling.factor))
        return min(longest, self.sliding_window or longest)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "ModelConfig":
        """Read a checkpoint's configuration.

        Raises:
            CheckpointError: it cannot be read, or the model is of a kind that is not served.
        """
        if checkpoint.format == "gguf":
            return cls.from_gguf(GGUFFile.open(checkpoint.path))
        config = _read_json(checkpoint.path / "config.json")
        generation = checkpoint.path / "generation_config.json"
        return cls.from_huggingface(config, _read_json(generation) if generation.is_file() else {})

    @classmethod
    def from_huggingface(
        cls, config: Mapping[str, object], generation: Mapping[str, object] | None = None
    ) -> "ModelConfig":
        """Read config.json and generation_config.json, as transformers 4 or 5 write them.

        Raises:
            CheckpointError: a field is missing, or the model is of a kind that is not served.
        """
        fields = _Fields(config, "config.json")
        architecture = fields.architecture()
        num_heads = fields.get("num_attention_heads", int)
        hidden_size = fields.get("hidden_size", int)
        positions = fields.get("max_position_embeddings", int)
        rope_theta, scaling = _rope(fields, positions)
        ends = [*_token_ids(fields.values.get("eos_token_id")), *_token_ids((generation or {}).get("eos_token_id"))]
        return cls(
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=fields.get("intermediate_size", int),
            num_hidden_layers=fields.get("num_hidden_layers", int),
            num_attention_heads=num_heads,
            num_key_value_heads=fields.get("num_key_value_heads", int, num_heads),
            head_dim=fields.get("head_dim", int, hidden_size // num_heads),
            vocab_size=fields.get("vocab_size", int),
            max_position_embeddings=positions,
            rms_norm_eps=fields.get("rms_norm_eps", float, 1e-6),
            rope_theta=rope_theta,
            rope_scaling=scaling,
            tie_word_embeddings=fields.get("tie_word_embeddings", bool, False),
            attention_bias=fields.get("attention_bias", bool, False),
            mlp_bias=fields.get("mlp_bias", bool, False),
            dtype=fields.get("dtype", str, fields.get("torch_dtype", str, "float32")).removeprefix("torch."),
            bos_token_id=next(iter(_token_ids(fields.values.get("bos_token_id"))), None),
            eos_token_ids=tuple(dict.fromkeys(ends)),
            sliding_window=fields.get("sliding_window", int, 0) or None,
        )

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read the metadata and the tensors' names of a GGUF file.

        Raises:
            CheckpointError: a key is missing, or the model is of a kind that is not served.
        """
        fields = _Fields(file.metadata, str(file.path))
        architecture = fields.get("general.architecture", str)
        if architecture not in SERVED_GGUF_ARCHITECTURES:
            _refuse(architecture, SERVED_GGUF_ARCHITECTURES)
        model = _Fields(file.metadata, str(file.path), prefix=f"{architecture}.")
        num_heads = model.get("attention.head_count", int)
        hidden_size = model.get("embedding_length", int)
        head_dim = model.get("attention.key_length", int, hidden_size // num_heads)
        if model.get("rope.dimension_count", int, head_dim) != head_dim or model.get("expert_count", int, 0):
            raise CheckpointError(f"{file.path} has partial rotary embeddings or experts, which are not served")
        positions = model.get("context_length", int)
        return cls(
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=model.get("feed_forward_length", int),
            num_hidden_layers=model.get("block_count", int),
            num_attention_heads=num_heads,
            num_key_value_heads=model.get("attention.head_count_kv", int, num_heads),
            head_dim=head_dim,
            vocab_size=file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0,
            max_position_embeddings=positions,
            rms_norm_eps=model.get("attention.layer_norm_rms_epsilon", float, 1e-5),
            rope_theta=model.get("rope.freq_base", float, 10_000.0),
            rope_scaling=_gguf_rope_scaling(model, positions),
            tie_word_embeddings="output.weight" not in file.tensors,
            attention_bias="blk.0.attn_q.bias" in file.tensors,
            mlp_bias="blk.0.ffn_up.bias" in file.tensors,
            dtype="float32",
            bos_token_id=next(iter(_token_ids(fields.values.get("tokenizer.ggml.bos_token_id"))), None),
            eos_token_ids=_gguf_eos_token_ids(fields),
        )


class _Fields:
    """Reads typed fields and says in whose file one is missing."""

    def __init__(self, values: Mapping[str, object], source: str, *, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self._prefix = prefix

    def get(self, name: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self.values.get(self._prefix + name)
        if value is None:
            value = default
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            found = "is missing" if value is None else f"is {value!r}"
            raise CheckpointError(f"{self.source}: {self._prefix}{name} {found}, expected {kind.__name__}")
        return value

    def architecture(self) -> str:
        """The one architecture of config.json, if it is served as it stands."""
        found = self.values.get("architectures")
        architecture = str(found[0]) if isinstance(found, list) and found else "none"
        if architecture not in SERVED_ARCHITECTURES:
            _refuse(architecture, SERVED_ARCHITECTURES)
        if self.values.get("quantization_config"):
            raise CheckpointError(
                f"{self.source}: quantization_config is not served; use the unquantized model or a GGUF"
            )
        activation = self.get("hidden_act", str, "silu")
        if activation != "silu":
            raise CheckpointError(f"{self.source}: hidden_act is {activation!r}, only 'silu' is served")
        return architecture


def _refuse(architecture: str, served: tuple[str, ...]) -> NoReturn:
    raise CheckpointError(f"architecture {architecture!r} is not served; these are: {', '.join(served)}")


def _rope(fields: _Fields, positions: int) -> tuple[float, RopeScaling]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    found = fields.values.get("rope_parameters") or fields.values.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{fields.source}: rope_scaling is {found!r}, expected an object")
    rope = _Fields(found, f"{fields.source}: rope_scaling")
    theta = rope.get("rope_theta", float, fields.get("rope_theta", float, 10_000.0))
    kind = rope.get("rope_type", str, rope.get("type", str, "default"))
    if rope.get("partial_rotary_factor", float, 1.0) != 1.0:
        raise CheckpointError(f"{fields.source}: partial rotary embeddings are not served")
    optional: dict[str, float | None] = {
        name: rope.get(name, float) if found.get(name) is not None else None
        for name in ("attention_factor", "mscale", "mscale_all_dim")
    }
    original = rope.get("original_max_position_embeddings", int, positions)
    return theta, RopeScaling(
        rope_type=_rope_type(kind),
        factor=rope.get("factor", float, positions / original),
        original_max_positions=original,
        low_freq_factor=rope.get("low_freq_factor", float, 1.0),
        high_freq_factor=rope.get("high_freq_factor", float, 4.0),
        beta_fast=rope.get("beta_fast", float, 32.0),
        beta_slow=rope.get("beta_slow", float, 1.0),
        truncate=rope.get("truncate", bool, True),
        **optional,
    )


def _gguf_rope_scaling(model: _Fields, positions: int) -> RopeScaling:
    kind = model.get("rope.scaling.type", str, "none")
    return RopeScaling(
        rope_type="default" if kind == "none" else _rope_type(kind),
        factor=model.get("rope.scaling.factor", float, 1.0),
        original_max_positions=model.get("rope.scaling.original_context_length", int, positions),
        beta_fast=model.get("rope.scaling.yarn_beta_fast", float, 32.0),
        beta_slow=model.get("rope.scaling.yarn_beta_slow", float, 1.0),
    )


def _rope_type(kind: str) -> RopeType:
    for served in get_args(RopeType):
        if kind == served:
            return served  # type: ignore[no-any-return]
    raise CheckpointError(f"rope type {kind!r} is not served; these are: {', '.join(get_args(RopeType))}")


def _gguf_eos_token_ids(fields: _Fields) -> tuple[int, ...]:
    named = [fields.values.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    tokens, types = (fields.values.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    ends = [token for value in named for token in _token_ids(value)]
    if isinstance(tokens, list) and isinstance(types, list):
        ends += [
            token
            for token, (text, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == _CONTROL_TOKEN and text in _END_OF_TURN
        ]
    return tuple(dict.fromkeys(ends))


def _token_ids(value: object) -> list[int]:
    """Token ids as configs write them: one, several, or none."""
    if isinstance(value, int):
        return [value]
    return [int(item) for item in value] if isinstance(value, list) else []


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found
