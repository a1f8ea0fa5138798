"""A layer's two halves, built from what the family's description names: attention and the MLP, dense or of experts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gpu_worker.models.rotary import Rotation
from gpu_worker.weights import Weights
from kernels.arguments import Linear, Matrix, PagedAttention
from kernels.ops import Ops
from kernels.reference_linear import take_rows
from shared.architectures import Architecture
from shared.layer_config import ExpertsConfig, LayerConfig
from shared.model_config import ModelConfig


class LayerWeights:
    """The tensors of one layer, by the family's names."""

    def __init__(self, weights: Weights, prefix: str, architecture: Architecture, ops: Ops) -> None:
        self._weights = weights
        self._prefix = prefix
        self._ops = ops
        self._norm_offset = architecture.norm_offset

    def norm(self, name: str | None) -> Tensor | None:
        """A norm's weights, what the family adds to them included; None without a name."""
        if name is None:
            return None
        weight = self._weights.get(f"{self._prefix}{name}.weight")
        return weight + self._norm_offset if self._norm_offset else weight

    def linear(
        self,
        names: Sequence[str],
        *,
        is_biased: bool,
        in_order: Callable[[Matrix, int], Matrix] | None = None,
    ) -> Linear:
        """Matrices that read the same input, as one. in_order: puts the rows of the matrix with an index into order."""
        matrices = [self._weights.matrix(f"{self._prefix}{name}.weight") for name in names]
        biases = [self._weights.get(f"{self._prefix}{name}.bias") for name in names] if is_biased else []
        if in_order is not None:
            matrices = [in_order(matrix, index) for index, matrix in enumerate(matrices)]
            ordered = [in_order(bias, index) for index, bias in enumerate(biases)]
            biases = [bias for bias in ordered if isinstance(bias, Tensor)]
        return self._ops.pack_linear(matrices, torch.cat(biases) if biases else None)


@dataclass(frozen=True, slots=True)
class Attention:
    """Queries, keys and values, their norms and rotation, the attention itself, and what its output becomes."""

    qkv: Linear
    output: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    config: ModelConfig
    layer: LayerConfig
    ops: Ops

    @classmethod
    def load(
        cls, config: ModelConfig, layer: LayerConfig, architecture: Architecture, weights: LayerWeights, ops: Ops
    ) -> "Attention":
        """Read a layer's tensors.

        Raises:
            CheckpointError: one of them is not there.
        """
        order = _RotatedRows(config, layer, architecture)
        is_normed = architecture.query_key_norm is not None
        return cls(
            qkv=weights.linear(architecture.qkv, is_biased=config.attention_bias, in_order=order.of_matrix),
            output=weights.linear(["self_attn.o_proj"], is_biased=config.output_bias),
            query_norm=order.of_norm(weights.norm("self_attn.q_norm")) if is_normed else None,
            key_norm=order.of_norm(weights.norm("self_attn.k_norm")) if is_normed else None,
            config=config,
            layer=layer,
            ops=ops,
        )

    def __call__(
        self,
        hidden: Tensor,
        rotation: Rotation,
        attention: PagedAttention,
        slots: Tensor,
        cache: tuple[Tensor, Tensor],
    ) -> Tensor:
        """From [num_tokens, hidden_size] to the same; keys and values go to `slots` of the cache."""
        config = self.config
        qkv = self.qkv(hidden).view(len(hidden), -1, config.head_dim)
        if self.query_norm is not None and self.key_norm is not None:
            qkv = self.ops.norm_heads(
                qkv, self.query_norm, self.key_norm, config.rms_norm_eps, config.num_key_value_heads
            )
        query = self.ops.rotate_and_write(qkv, *rotation, *cache, slots)
        attended = attention(
            query,
            *cache,
            scale=config.attention_scale,
            window=self.layer.window,
            soft_cap=config.attention_soft_cap,
        )
        return self.output(attended.flatten(1))


class _RotatedRows:
    """Where a part of each head is rotated: its rows in the order in which the kernels rotate a whole head.

    They rotate pairs (i, i + head_dim / 2). So the first halves of what is rotated come first, then as much of what is
    not; then the second halves likewise. Scores do not depend on the order.
    """

    def __init__(self, config: ModelConfig, layer: LayerConfig, architecture: Architecture) -> None:
        dim, half = config.head_dim, layer.rotary.dim // 2
        still = torch.arange(2 * half, dim).chunk(2)
        head = (
            torch.cat((torch.arange(half), still[0], torch.arange(half, 2 * half), still[1]))
            if half < dim // 2
            else None
        )
        heads = [config.num_attention_heads, config.num_key_value_heads, 0]
        self._heads = heads if len(architecture.qkv) == len(heads) else [sum(heads)]
        self._head = head

    def of_matrix(self, matrix: Matrix, index: int) -> Matrix:
        """The matrix, or the bias, of the tensor with this index in `qkv`."""
        if self._head is None:
            return matrix
        size = len(self._head)
        rows = (torch.arange(self._heads[index])[:, None] * size + self._head).flatten()
        rows = torch.cat((rows, torch.arange(len(rows), matrix.shape[0])))
        return take_rows(matrix, rows)

    def of_norm(self, weight: Tensor | None) -> Tensor | None:
        """A norm of heads."""
        if weight is None or self._head is None:
            return weight
        return weight.view(-1, len(self._head))[:, self._head].flatten()


class MLP(Protocol):
    """The half of a layer that mixes no tokens."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """From [num_tokens, hidden_size] to the same; a token's numbers depend on that token alone."""


@dataclass(frozen=True, slots=True)
class DenseMLP:
    """Gate, activation, product, and back."""

    gate_up: Linear
    down: Linear
    activate_and_mul: Callable[[Tensor], Tensor]

    def __call__(self, hidden: Tensor) -> Tensor:
        """See `MLP`."""
        return self.down(self.activate_and_mul(self.gate_up(hidden)))


@dataclass(frozen=True, slots=True)
class SparseMLP:
    """Each token's likeliest experts, weighted. The tokens of one expert are computed together.

    Source: Shazeer et al. 2017.
    """

    router: Linear
    experts: Sequence[MLP]
    shared: MLP | None
    shared_gate: Linear | None
    config: ExpertsConfig

    def __call__(self, hidden: Tensor) -> Tensor:
        """See `MLP`. What experts give is summed in the order of their numbers, whatever is computed beside a token."""
        chances = self.router(hidden).float().softmax(-1)
        weights, chosen = chances.topk(self.config.num_chosen, dim=-1)
        if self.config.is_normed:
            weights = weights / weights.sum(-1, keepdim=True)
        total = torch.zeros_like(hidden)
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, places = torch.where(chosen == expert)
            part = self.experts[expert](hidden[tokens]) * weights[tokens, places, None].to(hidden.dtype)
            total.index_add_(0, tokens, part)
        if self.shared is not None and self.shared_gate is not None:
            # The sigmoid by way of softmax, whose rows PyTorch computes one by one.
            share = functional.pad(self.shared_gate(hidden), (0, 1)).softmax(-1)[:, :1]
            total += share * self.shared(hidden)
        return total


def load_mlp(
    config: ModelConfig, layer: LayerConfig, architecture: Architecture, weights: LayerWeights, ops: Ops
) -> MLP:
    """A layer's MLP.

    Raises:
        CheckpointError: one of its tensors is not there.
    """
    activate = {"silu": ops.silu_and_mul, "gelu_pytorch_tanh": ops.gelu_and_mul}[config.activation]

    def dense(gate_up: Sequence[str], down: str) -> DenseMLP:
        return DenseMLP(
            weights.linear(gate_up, is_biased=config.mlp_bias),
            weights.linear([down], is_biased=config.mlp_bias),
            activate,
        )

    if not layer.is_sparse:
        return dense(architecture.gate_up, "mlp.down_proj")
    assert architecture.experts is not None
    assert config.experts is not None
    names = architecture.experts

    def expert(prefix: str) -> DenseMLP:
        return dense([f"{prefix}.{name}" for name in names.gate_up], f"{prefix}.{names.down}")

    shared_gate = None if names.shared_gate is None else weights.linear([names.shared_gate], is_biased=False)
    return SparseMLP(
        router=weights.linear([names.router], is_biased=False),
        experts=[expert(names.expert.format(index)) for index in range(config.experts.num_experts)],
        shared=None if names.shared is None else expert(names.shared),
        shared_gate=shared_gate,
        config=config.experts,
    )
