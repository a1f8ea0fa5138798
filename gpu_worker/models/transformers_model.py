"""Models that the decoder does not know: transformers' modelling code, on our paged cache.

Where a model's code asks transformers for its attention function, it gets ours, and a step's sequences are computed
together. Where it brings its own attention, sequences are computed one by one, with their keys and values out of our
cache. A token's last bits may depend on its batch here: the matrices are multiplied by PyTorch.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from gpu_worker.kv_cache import KVCache
from gpu_worker.step_input import StepInput
from kernels.arguments import PagedAttention
from kernels.ops import REFERENCE, Ops, select
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.model_config import ModelConfig

_log = logging.getLogger(__name__)

_NAME: Final = "pagestream"


@dataclass(slots=True)
class _Step:
    """What every layer of a step needs beside what its module has."""

    ops: Ops
    cache: KVCache
    slots: Tensor
    attention: PagedAttention


class _Layer:
    """One layer's attention on the paged cache; all layers share the step."""

    def __init__(self, holder: list[_Step]) -> None:
        self._holder = holder

    def attend(
        self,
        index: int,
        qkv: tuple[Tensor, Tensor, Tensor],
        scale: float,
        window: int | None,
        soft_cap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """From queries, keys and values, each [1, heads, num_tokens, head_dim], to [1, num_tokens, heads, head_dim]."""
        step = self._holder[0]
        layer = step.cache.layer(index)
        together = torch.cat([part[0] for part in qkv]).transpose(0, 1).contiguous()
        query = step.ops.rotate_and_write(together, *_still(together), *layer, step.slots)
        attended = step.attention(query, *layer, scale=scale, window=window, soft_cap=soft_cap, sinks=sinks)
        return attended[None]


def _still(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines that rotate nothing."""
    shape = len(qkv), qkv.shape[2] // 2
    return qkv.new_ones(shape), qkv.new_zeros(shape)


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """As transformers calls it, see `AttentionInterface`."""
    assert attention_mask is None, "transformers makes no mask for functions it does not know"
    layer, index = cast("_Layer", module.pagestream), cast("int", module.layer_idx)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layer.attend(index, (query, key, value), scale, sliding_window, softcap, s_aux), None


AttentionInterface.register(_NAME, _attention_function)


class TransformersModel:
    """Implements `Model`.

    Attributes:
        config: With the heads and layers that the modelling code keeps in a cache.
        ops: Whose layout the cache must have.
    """

    def __init__(self, model: PreTrainedModel, config: ModelConfig, ops: Ops) -> None:
        """Take over a model that is loaded.

        Args:
            model: In the dtype to compute in.
            config: As its config.json says.
            ops: The best ones of the device.

        Raises:
            CheckpointError: it keeps something else than keys and values of one shape in its layers.
        """
        self._model = model
        self.config = _cached(model, config)
        if not getattr(model.config, "alibi", False):  # which adds positions to scores: the function is not told
            model.set_attn_implementation(_NAME)
        self._is_paged = model.config._attn_implementation == _NAME  # noqa: SLF001  the only place where it is said
        has_sinks = any(hasattr(module, "sinks") for module in model.modules())
        if not self._is_paged:
            ops = select(model.device)
        self.ops = REFERENCE if has_sinks and not ops.has_sinks else ops
        self._steps: list[_Step] = []
        layer = _Layer(self._steps)
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                cast("Any", module).pagestream = layer
        way = "with paged attention" if self._is_paged else "sequence by sequence"
        _log.info("%s is computed by transformers' code, %s", config.architecture, way)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, config: ModelConfig, ops: Ops, *, dtype: torch.dtype, device: torch.device
    ) -> "TransformersModel":
        """Read a checkpoint's weights.

        Raises:
            CheckpointError: they cannot be read, or the model cannot be served.
        """
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                checkpoint.path, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(f"transformers cannot load {checkpoint.path}: {error}") from error
        model.eval().to(device)
        return cls(model, config, ops)

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """See `Model`."""
        return self.logits(self.hidden_states(step, cache).index_select(0, step.sampled_rows))

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Model`: by the model's own code after its layers, whatever it does there."""
        with _layers_give(self._model.base_model, hidden[None]):
            output = self._model(input_ids=torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device))
        logits: Tensor = output.logits[0].float()
        return logits

    def hidden_states(self, step: StepInput, cache: KVCache) -> Tensor:
        """See `Model`."""
        if not self._is_paged:
            return self._one_by_one(step, cache)
        self._steps[:] = [_Step(self.ops, cache, step.slots, self.ops.plan_attention(step.batch))]
        output = self._model.base_model(
            input_ids=step.token_ids[None], position_ids=step.positions[None], use_cache=False
        )
        self._steps.clear()
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _one_by_one(self, step: StepInput, cache: KVCache) -> Tensor:
        starts, hidden = step.batch.query_start.tolist(), []
        for sequence, context_len in enumerate(step.batch.context_lens.tolist()):
            rows = slice(starts[sequence], starts[sequence + 1])
            past = self._past(step, cache, sequence, context_len - (rows.stop - rows.start))
            output = self._model.base_model(
                input_ids=step.token_ids[None, rows],
                position_ids=step.positions[None, rows],
                past_key_values=past,
                use_cache=True,
            )
            for index, layer in enumerate(past.layers):
                for kept, own in zip(cache.layer(index), _kept(layer), strict=True):
                    new = own[0, :, -(rows.stop - rows.start) :].transpose(0, 1)
                    kept.flatten(0, 1)[step.slots[rows]] = new.to(kept.dtype)
            hidden.append(output.last_hidden_state[0])
        return torch.cat(hidden)

    def _past(self, step: StepInput, cache: KVCache, sequence: int, num_past: int) -> DynamicCache:
        """What a sequence has in the cache, as transformers wants it."""
        past = DynamicCache()
        if num_past == 0:
            return past
        place = torch.arange(num_past, device=step.slots.device)
        blocks = step.batch.block_tables[sequence, place // step.batch.block_size].long()
        slots = blocks * step.batch.block_size + place % step.batch.block_size
        for index in range(self.config.num_hidden_layers):
            keys, values = (kept.flatten(0, 1)[slots].transpose(0, 1)[None] for kept in cache.layer(index))
            past.update(keys, values, index)
        return past


def _cached(model: PreTrainedModel, config: ModelConfig) -> ModelConfig:
    """The config with the layers and heads that one token leaves in transformers' own cache."""
    cache = DynamicCache()
    with torch.inference_mode():
        model.base_model(
            input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), past_key_values=cache, use_cache=True
        )
    shapes = {tuple(kept.shape[1::2]) for layer in cache.layers for kept in _kept(layer)}
    if len(shapes) != 1:
        raise CheckpointError(
            f"{config.architecture} keeps {sorted(shapes) or 'nothing'} in its cache (heads, head_dim); "
            "models whose layers all keep keys and values of one shape are served"
        )
    ((num_heads, head_dim),) = shapes
    return replace(config, num_hidden_layers=len(cache.layers), num_key_value_heads=num_heads, head_dim=head_dim)


def _kept(layer: object) -> list[Tensor]:
    """The keys and values of one layer of transformers' cache, each [1, num_kv_heads, num_tokens, head_dim]."""
    found = (getattr(layer, "keys", None), getattr(layer, "values", None))
    return [kept for kept in found if isinstance(kept, Tensor)]


@dataclass
class _LayersOutput(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """What any model looks for in its layers' output, those with experts included."""

    router_logits: tuple[Tensor, ...] | None = None


@contextmanager
def _layers_give(base: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Let a model's layers give these hidden states, so that what follows them can be computed alone."""
    base.forward = lambda *_, **__: _LayersOutput(last_hidden_state=hidden)
    try:
        yield
    finally:
        del base.forward
