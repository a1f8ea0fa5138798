"""Weights that mean nothing, in a real model's shapes and formats: what kernels take does not depend on the numbers."""

from typing import Final, Literal

import torch
from torch import Tensor

from kernels.arguments import IntegerMatrix, Matrix, ScaledMatrix
from kernels.roofline import DecoderSize
from shared.model_config import ModelConfig

WeightKind = Literal["bf16", "int4", "fp8"]

_GROUP: Final = 128


def llama_config(size: DecoderSize, *, num_layers: int) -> ModelConfig:
    """A Llama of this size, with so many layers."""
    return ModelConfig.from_huggingface(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": size.num_heads,
            "num_key_value_heads": size.num_kv_heads,
            "head_dim": size.head_dim,
            "vocab_size": size.vocab_size,
            "max_position_embeddings": 8192,
            "dtype": "bfloat16",
        }
    )


class RandomWeights:
    """Implements `Weights` for a Llama; the layers' matrices are of one kind, the others in bf16."""

    def __init__(self, config: ModelConfig, kind: WeightKind, device: torch.device) -> None:
        query, key = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        hidden, width = config.hidden_size, config.intermediate_size
        self._shapes = {
            "q_proj": (query, hidden),
            "k_proj": (key, hidden),
            "v_proj": (key, hidden),
            "o_proj": (hidden, query),
            "gate_proj": (width, hidden),
            "up_proj": (width, hidden),
            "down_proj": (hidden, width),
            "embed_tokens": (config.vocab_size, hidden),
            "lm_head": (config.vocab_size, hidden),
        }
        self._kind = kind
        self._device = device

    def get(self, name: str) -> Tensor:
        """See `Weights`; norms alone."""
        raise KeyError(f"{name} is not among the matrices, and nothing else is measured")

    def matrix(self, name: str) -> Matrix:
        """See `Weights`."""
        last = name.removesuffix(".weight").rpartition(".")[2]
        out_features, in_features = self._shapes[last]
        if self._kind == "bf16" or "layers" not in name:
            return torch.randn(out_features, in_features, dtype=torch.bfloat16, device=self._device)
        if self._kind == "fp8":
            weight = torch.randn(out_features, in_features, device=self._device).to(torch.float8_e4m3fn)
            blocks = -(-out_features // _GROUP), -(-in_features // _GROUP)
            return ScaledMatrix(weight, torch.rand(*blocks, device=self._device), (_GROUP, _GROUP))
        num_groups = in_features // _GROUP
        return IntegerMatrix(
            bits=4,
            quants=torch.randint(0, 16, (out_features, in_features), dtype=torch.uint8, device=self._device),
            scales=torch.rand(out_features, num_groups, device=self._device).half(),
            zeros=torch.full((out_features, num_groups), 8, dtype=torch.int32, device=self._device),
            groups=torch.arange(in_features, device=self._device) // _GROUP,
        )

    def rotary_divisors(self) -> None:
        """See `Weights`."""
        return
