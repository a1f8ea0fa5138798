"""The runner that computes: plan -> batch state -> step input -> model -> sampler."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from gpu_worker.batch_buckets import batch_buckets
from gpu_worker.batch_state import BatchState
from gpu_worker.cache_sizing import cache_memory_bytes
from gpu_worker.captured_steps import CapturedSteps
from gpu_worker.kv_cache import CacheGeometry, KVCache
from gpu_worker.largest_step import run_largest_step
from gpu_worker.logits_processors.grammar import GrammarMask
from gpu_worker.logits_processors.pipeline import LogitsPipeline, standard_processors
from gpu_worker.logprobs import prompt_logprobs
from gpu_worker.models.loading import load_model
from gpu_worker.models.model import Model
from gpu_worker.ops_selection import choose_ops
from gpu_worker.pooling import Pooler
from gpu_worker.precision import Precision
from gpu_worker.runner import RowOutput, StepOutput
from gpu_worker.sampler import Sampler
from gpu_worker.scoring import log_likelihoods
from gpu_worker.staging import move_to
from gpu_worker.step_input import StepInput
from kernels.ops import Ops
from shared.checkpoint import Checkpoint
from shared.grammar import GrammarCompiler
from shared.ids import Slot
from shared.messages import Logprobs, StepPlan, WorkerCapabilities
from shared.model_config import ModelConfig
from shared.packing import unpack_u32
from shared.sampling import FinishCode
from shared.tokenizer_file import tokenizer_json

logger = logging.getLogger(__name__)

_NOTHING_TO_CHOOSE: Final = (
    "no token has a finite score: the model computed none, or the request's parameters forbid every token"
)


class ModelRunner:
    """Implements `Runner` with a model in memory. One thread calls it."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        steps: CapturedSteps,
        state: BatchState,
        sampler: Sampler,
        grammars: GrammarMask,
        *,
        capabilities: WorkerCapabilities,
    ) -> None:
        self._model = model
        self._cache = cache
        self._steps = steps
        self._state = state
        self._sampler = sampler
        self._pooler = Pooler()
        self._grammars = grammars
        self._capabilities = capabilities
        self._device = torch.device(capabilities.device)
        self._move = move_to(self._device)

    @classmethod
    def load(  # noqa: PLR0913  one keyword for each flag of the worker
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: str,
        kv_cache_dtype: str,
        quantization: str | None,
        block_size: int,
        kv_cache_memory_bytes: int | None,
        gpu_memory_utilization: float,
        max_model_len: int | None,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        enable_prefix_caching: bool,
        device: str,
        model_name: str,
        enforce_eager: bool = False,
        ops: Ops | None = None,
    ) -> "ModelRunner":
        """Load a model and allocate its cache.

        Args:
            checkpoint: What to load.
            dtype: "auto", "float32", "bfloat16" or "float16"; see `Precision.choose`.
            kv_cache_dtype: "auto", "fp32", "bf16", "fp16", "int8" or "fp8"; see `Precision.choose`.
            quantization: A name of `Quantization`, or None.
            block_size: Tokens of a block.
            kv_cache_memory_bytes: For the cache; None for the device's default.
            gpu_memory_utilization: Share of a GPU's memory to use, weights included.
            max_model_len: None for as much as the model and the cache allow.
            max_num_seqs: Rows.
            max_num_batched_tokens: Tokens of one step at most.
            enable_prefix_caching: What the scheduler is told.
            device: By PyTorch's name.
            model_name: What clients call the model.
            enforce_eager: Capture no step.
            ops: To compute with; None for the best that `choose_ops` finds.

        Raises:
            ConfigurationError: a setting is wrong, or the model cannot be served with it.
        """
        where = torch.device(device)
        config = ModelConfig.from_checkpoint(checkpoint)
        ops = ops or choose_ops(where, block_size=block_size, head_dim=config.head_dim)
        precision = Precision.choose(
            dtype, config, ops, where, kv_cache_dtype=kv_cache_dtype, quantization=quantization
        )
        logger.info("loading %s as %s, by %s kernels", model_name, precision, ops.name)
        max_positions = max_model_len or config.max_context
        with torch.inference_mode():
            model, config, ops = load_model(checkpoint, config, ops, precision, where, max_positions=max_positions)
            memory_bytes = cache_memory_bytes(
                where,
                kv_cache_memory_bytes=kv_cache_memory_bytes,
                gpu_memory_utilization=gpu_memory_utilization,
                run_largest_step=partial(
                    run_largest_step,
                    model,
                    config,
                    ops,
                    max_num_seqs=max_num_seqs,
                    max_num_batched_tokens=max_num_batched_tokens,
                    block_size=block_size,
                    max_positions=max_positions,
                    cache_dtype=precision.cache,
                    device=where,
                ),
            )
            geometry = CacheGeometry.fit(
                config,
                block_size=block_size,
                dtype=precision.cache,
                memory_bytes=memory_bytes,
                max_model_len=max_model_len,
            )
            cache = KVCache(config, geometry, ops, dtype=precision.cache, device=where)
        on_gpu = where.type != "cpu"
        blocks = (geometry.num_blocks, 0) if on_gpu else (0, geometry.num_blocks)
        logger.info("# GPU blocks: %d, # CPU blocks: %d", *blocks)
        state = BatchState(
            max_num_seqs=max_num_seqs,
            max_model_len=geometry.max_model_len,
            max_num_batched_tokens=max_num_batched_tokens,
            block_size=block_size,
            num_blocks=geometry.num_blocks,
            vocab_size=config.vocab_size,
        )
        capabilities = WorkerCapabilities(
            model=model_name,
            block_size=block_size,
            num_blocks=geometry.num_blocks,
            max_model_len=geometry.max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            num_efficient_tokens=ops.num_efficient_tokens,
            device=device,
            kernels=ops.name,
            dtype=precision.dtype_name,
            kv_cache_dtype=precision.kv_cache_dtype_name,
            quantization=precision.quantization_name,
        )
        max_blocks = -(-geometry.max_model_len // block_size)
        steps = CapturedSteps(
            model,
            cache,
            None if enforce_eager else ops.capture,
            max_blocks=max_blocks,
            block_size=block_size,
            device=where,
            buckets=batch_buckets(max_num_seqs) if ops.captures_padded else None,
        )
        with torch.inference_mode():
            if num_captured := steps.prepare():
                logger.info("captured decodes of %d batch sizes, up to %d sequences", num_captured, max_num_seqs)
        compiler = GrammarCompiler(partial(tokenizer_json, checkpoint), config.eos_token_ids)
        grammars = GrammarMask(compiler, config.vocab_size)
        pipeline = LogitsPipeline([*standard_processors(config.vocab_size), grammars], max_num_seqs=max_num_seqs)
        return cls(model, cache, steps, state, Sampler(state, ops, pipeline), grammars, capabilities=capabilities)

    @property
    def capabilities(self) -> WorkerCapabilities:
        """See `Runner`."""
        return self._capabilities

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepOutput:
        """See `Runner`."""
        work = self._state.apply(plan)
        self._sampler.apply(plan)
        self._pooler.apply(plan)
        if plan.copies:
            pairs = unpack_u32(plan.copies)
            self._cache.copy_blocks(list(pairs[::2]), list(pairs[1::2]))
        if not len(work.slots):
            return StepOutput([], 0)
        step = StepInput.build(self._state, work, self._move)
        hidden = self._steps.hidden_states(step)
        told = prompt_logprobs(self._state, work, hidden, self._model.logits)
        embeddings = self._pooler.pool(self._state, work, hidden)
        logits = self._model.logits(hidden.index_select(0, step.sampled_rows))
        self._state.advance(work)
        sampled = self._sampler.choose(logits, step.sampled_slots)
        rows = [
            self._commit(Slot(slot), token, sampled.logprobs.get(row), is_valid=is_valid)
            for row, (slot, token, is_valid) in enumerate(
                zip(step.sampled_slots.tolist(), sampled.tokens, sampled.is_valid, strict=True)
            )
        ]
        rows = [row._replace(embedding=embeddings.get(row.slot)) for row in rows] if embeddings else rows
        return StepOutput(rows, len(step.token_ids), told)

    def reset(self) -> None:
        """See `Runner`."""
        self._state.clear()
        self._sampler.clear()
        self._pooler.clear()

    @torch.inference_mode()
    def log_likelihoods(self, tokens: Sequence[int]) -> Tensor:
        """How likely the model finds each token of a text but the first, see `scoring`. Forgets every row.

        Args:
            tokens: At least two, `max_model_len` at most.
        """
        self.reset()
        block_size = self._capabilities.block_size
        return log_likelihoods(self._model, self._cache, tokens, block_size=block_size, device=self._device)

    def _commit(self, slot: Slot, token: int, logprobs: Logprobs | None, *, is_valid: bool) -> RowOutput:
        if not is_valid:
            self._state.fail(slot)
            return RowOutput(slot, (), FinishCode.ERROR, _NOTHING_TO_CHOOSE)
        self._sampler.commit(slot, token)
        finish = self._state.commit(slot, token, is_complete=self._grammars.is_complete(slot))
        return RowOutput(slot, (token,), finish, logprobs=logprobs)
