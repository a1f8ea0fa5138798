"""The decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Reads top to bottom as one step does. It owns the weights; the keys and values it writes belong to the `KVCache`.

Source: Touvron et al. 2023; tensor names are those of transformers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.kv_cache import KVCache
from gpu_worker.models.rotary import RotaryTable
from gpu_worker.step_input import StepInput
from gpu_worker.weights import Weights
from kernels.arguments import Linear, PagedAttention
from kernels.ops import Ops
from shared.model_config import ModelConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of a step's tokens, each [num_tokens, head_dim / 2]."""


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """One model in memory."""

    def __init__(self, config: ModelConfig, weights: Weights, ops: Ops, *, max_positions: int) -> None:
        self._config = config
        self._ops = ops
        self._embedding = ops.pack_embedding(weights.matrix("model.embed_tokens.weight"))
        self._layers = [_load_layer(index, config, weights, ops) for index in range(config.num_hidden_layers)]
        self._norm = weights.get("model.norm.weight")
        if config.tie_word_embeddings:
            self._head = self._embedding.head()
        else:
            self._head = ops.pack_linear([weights.matrix("lm_head.weight")], None)
        self.rotary = RotaryTable(
            config,
            max_positions=max_positions,
            dtype=self._norm.dtype,
            device=self._norm.device,
            divisors=weights.rotary_divisors(),
        )

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """Compute a step's tokens and write their keys and values.

        Returns:
            Logits of the tokens that are followed by a new one, [num_sampled, vocab_size] float32.
        """
        return self.logits(self.hidden_states(step, cache).index_select(0, step.sampled_rows))

    def logits(self, hidden: Tensor) -> Tensor:
        """From last hidden states [num_tokens, hidden_size] to logits, [num_tokens, vocab_size] float32."""
        return self._head(hidden).float()

    def hidden_states(self, step: StepInput, cache: KVCache) -> Tensor:
        """As `forward`, but returns the last hidden states of all tokens, [num_tokens, hidden_size]."""
        return self.layers(step, self.rotary.at(step.positions), cache)

    def layers(self, step: StepInput, rotation: Rotation, cache: KVCache) -> Tensor:
        """As `hidden_states`, by the ops alone."""
        attention = self._ops.plan_attention(step.batch)
        residual = self._embedding(step.token_ids)
        hidden = self._ops.rms_norm(residual, self._layers[0].input_norm, self._config.rms_norm_eps)
        next_norms = [layer.input_norm for layer in self._layers[1:]] + [self._norm]
        for index, (layer, next_norm) in enumerate(zip(self._layers, next_norms, strict=True)):
            hidden = self._attend(layer, hidden, rotation, attention, step, cache.layer(index))
            hidden, residual = self._ops.add_rms_norm(hidden, residual, layer.mlp_norm, self._config.rms_norm_eps)
            hidden = layer.down(self._ops.silu_and_mul(layer.gate_up(hidden)))
            hidden, residual = self._ops.add_rms_norm(hidden, residual, next_norm, self._config.rms_norm_eps)
        return hidden

    def _attend(
        self,
        layer: _Layer,
        hidden: Tensor,
        rotation: Rotation,
        attention: PagedAttention,
        step: StepInput,
        cache: tuple[Tensor, Tensor],
    ) -> Tensor:
        qkv = layer.qkv(hidden).view(len(hidden), -1, self._config.head_dim)
        query = self._ops.rotate_and_write(qkv, *rotation, *cache, step.slots)
        return layer.output(attention(query, *cache, scale=self._config.head_dim**-0.5).flatten(1))


def _load_layer(index: int, config: ModelConfig, weights: Weights, ops: Ops) -> _Layer:
    prefix = f"model.layers.{index}."

    def linear(*names: str, biased: bool) -> Linear:
        """Matrices that read the same input, as one."""
        matrices = [weights.matrix(f"{prefix}{name}_proj.weight") for name in names]
        bias = torch.cat([weights.get(f"{prefix}{name}_proj.bias") for name in names]) if biased else None
        return ops.pack_linear(matrices, bias)

    attention, mlp = config.attention_bias, config.mlp_bias
    return _Layer(
        input_norm=weights.get(f"{prefix}input_layernorm.weight"),
        qkv=linear("self_attn.q", "self_attn.k", "self_attn.v", biased=attention),
        output=linear("self_attn.o", biased=attention),
        mlp_norm=weights.get(f"{prefix}post_attention_layernorm.weight"),
        gate_up=linear("mlp.gate", "mlp.up", biased=mlp),
        down=linear("mlp.down", biased=mlp),
    )
