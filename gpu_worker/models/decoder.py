"""The decoder: embedding, layers of attention and MLP around a residual, and the head.

Reads top to bottom as one step does; what a family does otherwise than Llama stands in `shared.architectures`. It owns
the weights; the keys and values it writes belong to the `KVCache`.

Source: Touvron et al. 2023; tensor names are those of transformers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.kv_cache import KVCache
from gpu_worker.models.parts import MLP, Attention, LayerWeights, load_mlp
from gpu_worker.models.rotary import RotaryTables, Rotation
from gpu_worker.step_input import StepInput
from gpu_worker.weights import Weights
from kernels.ops import Ops
from shared.architectures import ARCHITECTURES, Architecture
from shared.layer_config import LayerConfig
from shared.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class _Layer:
    """Attention and MLP, with the norms before them and before what they give is added; None where there is none."""

    before_attention: Tensor | None
    attention: Attention
    after_attention: Tensor | None
    before_mlp: Tensor | None
    mlp: MLP
    after_mlp: Tensor | None


class Decoder:
    """One model in memory.

    The residual is kept divided by `residual_scale`: then layers add to it as they are, and norms undo the division,
    whose epsilon is divided as well.

    Attributes:
        can_be_captured: Steps are made of the ops alone, see `Ops.capture`.
    """

    def __init__(self, config: ModelConfig, weights: Weights, ops: Ops, *, max_positions: int) -> None:
        self._config = config
        self._ops = ops
        self._residual_eps = config.rms_norm_eps / config.residual_scale**2
        self._embedding_scale = config.embedding_scale / config.residual_scale
        architecture = ARCHITECTURES[config.architecture]
        self._embedding = ops.pack_embedding(weights.matrix("model.embed_tokens.weight"))
        self._layers = [
            _load_layer(index, config, layer, architecture, weights, ops) for index, layer in enumerate(config.layers)
        ]
        self._norm = LayerWeights(weights, "model.", architecture, ops).norm("norm")
        if config.tie_word_embeddings:
            self._head = self._embedding.head()
        else:
            self._head = ops.pack_linear([weights.matrix("lm_head.weight")], None)
        self.can_be_captured = config.experts is None
        dtype, device = weights.get("model.norm.weight").dtype, weights.get("model.norm.weight").device
        self.rotary = RotaryTables(
            config, max_positions=max_positions, dtype=dtype, device=device, divisors=weights.rotary_divisors()
        )

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """Compute a step's tokens and write their keys and values.

        Returns:
            Logits of the tokens that are followed by a new one, [num_sampled, vocab_size] float32.
        """
        return self.logits(self.hidden_states(step, cache).index_select(0, step.sampled_rows))

    def logits(self, hidden: Tensor) -> Tensor:
        """From last hidden states [num_tokens, hidden_size] to logits, [num_tokens, vocab_size] float32."""
        logits = self._head(hidden).float()
        if self._config.logits_scale != 1:
            logits *= self._config.logits_scale
        cap = self._config.logits_soft_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def hidden_states(self, step: StepInput, cache: KVCache) -> Tensor:
        """As `forward`, but returns the last hidden states of all tokens, [num_tokens, hidden_size]."""
        return self.layers(step, self.rotary.at(step.positions), cache)

    def layers(self, step: StepInput, rotations: tuple[Rotation, ...], cache: KVCache) -> Tensor:
        """As `hidden_states`, by the ops alone where the model can be captured."""
        attention = self._ops.plan_attention(step.batch)
        residual = self._embedding(step.token_ids)
        if self._embedding_scale != 1:
            residual = self._ops.scale(residual, self._embedding_scale)
        hidden = self._normed(residual, self._layers[0].before_attention)
        next_norms = [layer.before_attention for layer in self._layers[1:]] + [self._norm]
        for index, (layer, next_norm) in enumerate(zip(self._layers, next_norms, strict=True)):
            rotation = rotations[self.rotary.table_of_layer[index]]
            hidden = layer.attention(hidden, rotation, attention, step.slots, cache.layer(index))
            hidden, residual = self._add(hidden, layer.after_attention, residual, layer.before_mlp)
            hidden = layer.mlp(hidden)
            hidden, residual = self._add(hidden, layer.after_mlp, residual, next_norm)
        return hidden

    def _add(self, x: Tensor, norm: Tensor | None, residual: Tensor, next_norm: Tensor | None) -> tuple[Tensor, Tensor]:
        """Norm what a half of a layer gives, add it to the residual, and norm the sum; returns this and the sum."""
        if norm is not None:
            x = self._ops.rms_norm(x, norm, self._config.rms_norm_eps)
        if next_norm is not None:
            return self._ops.add_rms_norm(x, residual, next_norm, self._residual_eps)
        total = self._ops.add(x, residual)
        return total, total

    def _normed(self, residual: Tensor, norm: Tensor | None) -> Tensor:
        return residual if norm is None else self._ops.rms_norm(residual, norm, self._residual_eps)


def _load_layer(
    index: int, config: ModelConfig, layer: LayerConfig, architecture: Architecture, weights: Weights, ops: Ops
) -> _Layer:
    own = LayerWeights(weights, f"model.layers.{index}.", architecture, ops)
    norms = architecture.norms
    return _Layer(
        before_attention=own.norm(norms.before_attention),
        attention=Attention.load(config, layer, architecture, own, ops),
        after_attention=own.norm(norms.after_attention),
        before_mlp=own.norm(norms.before_mlp),
        mlp=load_mlp(config, layer, architecture, own, ops),
        after_mlp=own.norm(norms.after_mlp),
    )
