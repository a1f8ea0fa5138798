"""Sizes of well-known models, as their config.json on the hub has them: to be planned without a network."""

from collections.abc import Mapping
from typing import Final, NamedTuple


class _Sizes(NamedTuple):
    layers: int
    hidden: int
    width: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    model_type: str = "llama"
    is_tied: bool = False
    head_dim: int | None = None
    num_experts: int | None = None

    def config(self) -> dict[str, object]:
        """As the fields of a config.json."""
        return {
            "model_type": self.model_type,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.is_tied,
            "num_local_experts": self.num_experts,
        }


_PUBLISHED: Final = {
    "Llama-2-7b": _Sizes(32, 4096, 11008, 32, 32, 32000, 4096),
    "Llama-2-13b": _Sizes(40, 5120, 13824, 40, 40, 32000, 4096),
    "Llama-2-70b": _Sizes(80, 8192, 28672, 64, 8, 32000, 4096),
    "Llama-3-8B": _Sizes(32, 4096, 14336, 32, 8, 128256, 8192),
    "Llama-3-70B": _Sizes(80, 8192, 28672, 64, 8, 128256, 8192),
    "Llama-3.1-8B": _Sizes(32, 4096, 14336, 32, 8, 128256, 131072),
    "Llama-3.1-70B": _Sizes(80, 8192, 28672, 64, 8, 128256, 131072),
    "Llama-3.1-405B": _Sizes(126, 16384, 53248, 128, 8, 128256, 131072),
    "Llama-3.2-1B": _Sizes(16, 2048, 8192, 32, 8, 128256, 131072, is_tied=True),
    "Llama-3.2-3B": _Sizes(28, 3072, 8192, 24, 8, 128256, 131072, is_tied=True),
    "Llama-3.3-70B": _Sizes(80, 8192, 28672, 64, 8, 128256, 131072),
    "Mistral-7B-v0.3": _Sizes(32, 4096, 14336, 32, 8, 32768, 32768, "mistral"),
    "Mixtral-8x7B-v0.1": _Sizes(32, 4096, 14336, 32, 8, 32000, 32768, "mixtral", num_experts=8),
    "Phi-3-mini-4k": _Sizes(32, 3072, 8192, 32, 32, 32064, 4096, "phi3"),
    "Qwen2.5-0.5B": _Sizes(24, 896, 4864, 14, 2, 151936, 32768, "qwen2", is_tied=True),
    "Qwen2.5-7B": _Sizes(28, 3584, 18944, 28, 4, 152064, 131072, "qwen2"),
    "Qwen2.5-32B": _Sizes(64, 5120, 27648, 40, 8, 152064, 131072, "qwen2"),
    "Qwen2.5-72B": _Sizes(80, 8192, 29568, 64, 8, 152064, 131072, "qwen2"),
    "Qwen3-8B": _Sizes(36, 4096, 12288, 32, 8, 151936, 40960, "qwen3", head_dim=128),
    "Qwen3-32B": _Sizes(64, 5120, 25600, 64, 8, 151936, 40960, "qwen3", head_dim=128),
    "SmolLM2-135M": _Sizes(30, 576, 1536, 9, 3, 49152, 8192, is_tied=True),
    "TinyLlama-1.1B": _Sizes(22, 2048, 5632, 32, 4, 32000, 2048),
}

PUBLISHED_NAMES: Final = tuple(_PUBLISHED)

_BY_KEY: Final = {name.lower(): sizes for name, sizes in _PUBLISHED.items()}
_VARIANTS: Final = ("-instruct", "-chat", "-hf", "-base", "-it")


def published_config(name: str) -> Mapping[str, object] | None:
    """The config of a well-known model, or None.

    Args:
        name: Any way people write it: "llama-3-70b", "Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-70B".
    """
    key = name.rpartition("/")[2].lower().removeprefix("meta-")
    while (shorter := _without_variant(key)) != key:
        key = shorter
    sizes = _BY_KEY.get(key)
    return None if sizes is None else sizes.config()


def _without_variant(key: str) -> str:
    for variant in _VARIANTS:
        key = key.removesuffix(variant)
    return key
