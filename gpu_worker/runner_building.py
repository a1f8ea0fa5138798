"""The runner that a worker's settings ask for, model and cache in memory."""

import os

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.runner import Runner
from gpu_worker.settings import WorkerSettings
from gpu_worker.timed_runner import TimedRunner
from kernels.roofline import GPUS, LLAMA_8B, expected_seconds
from shared.checkpoint import resolve
from shared.errors import ConfigurationError
from shared.messages import WorkerCapabilities

_FAKE_MAX_MODEL_LEN = 8192
_FAKE_CACHE_BYTES = 32 * 2**30
"""Of the model that the timed runner is: 262,144 tokens."""


def build_runner(settings: WorkerSettings) -> Runner:
    """What computes, ready for its first plan.

    Raises:
        ConfigurationError: a setting or the model is wrong.
    """
    if settings.runner == "model":
        return _load_model(settings)
    fake = FakeRunner(_fake_capabilities(settings), check_content=settings.runner == "fake")
    if settings.runner == "fake":
        return fake
    gpu = GPUS[settings.timed_device]
    return TimedRunner(fake, lambda load: expected_seconds(LLAMA_8B, load, gpu))


def _fake_capabilities(settings: WorkerSettings) -> WorkerCapabilities:
    max_model_len = settings.max_model_len or _FAKE_MAX_MODEL_LEN
    cache_bytes = settings.kv_cache_memory_bytes or _FAKE_CACHE_BYTES
    num_blocks = int(cache_bytes // (LLAMA_8B.kv_bytes_per_token * settings.block_size))
    if num_blocks * settings.block_size < max_model_len:
        raise ConfigurationError(
            f"--kv-cache-memory-bytes {cache_bytes} holds {num_blocks} blocks of {settings.block_size} tokens, too few "
            f"for one sequence of --max-model-len {max_model_len}: raise the one or lower the other"
        )
    return WorkerCapabilities(
        model=settings.model_name,
        block_size=settings.block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        enable_prefix_caching=settings.enable_prefix_caching,
        device=settings.runner,
    )


def _load_model(settings: WorkerSettings) -> Runner:
    # Idle threads of OpenMP would otherwise spin on cores that the I/O threads need. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # torch: seconds of start-up that fake runners do without.
    import torch

    from gpu_worker.model_runner import ModelRunner

    torch.set_num_threads(settings.num_threads or len(os.sched_getaffinity(0)))
    device = settings.device
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise ConfigurationError(
            f"--device {device}: PyTorch {torch.__version__} sees no GPU; install a build of PyTorch for your GPU and "
            "its driver, or use --device cpu"
        )
    return ModelRunner.load(
        resolve(settings.model),
        dtype=settings.dtype,
        kv_cache_dtype=settings.kv_cache_dtype,
        quantization=settings.quantization,
        block_size=settings.block_size,
        kv_cache_memory_bytes=settings.kv_cache_memory_bytes,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        enable_prefix_caching=settings.enable_prefix_caching,
        device=device,
        model_name=settings.model_name,
        enforce_eager=settings.enforce_eager,
    )
