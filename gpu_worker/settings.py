"""What a worker is told at its start."""

from dataclasses import dataclass, field
from typing import Literal

from kernels.roofline import GpuName
from shared.errors import ConfigurationError

RunnerKind = Literal["model", "fake", "timed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker process. Named as vLLM's flags where vLLM has them. Its printed form shows no secret.

    Attributes:
        pool: The pool to serve.
        model: What the model is loaded from: "demo", a GGUF file, a Hugging Face directory or a hub id.
        served_model_name: Names clients may ask for; the first one is shown. `model` itself if there are none.
        dtype: Of weights and cache; "auto" is float32 on the CPU and the checkpoint's own elsewhere.
        kv_cache_dtype: Of keys and values; "auto" is what `dtype` says.
        quantization: How to round the weights further, see `Quantization`; None leaves them as `dtype` says.
        max_model_len: Tokens of one sequence at most; the model's own limit if None.
        max_num_seqs: Sequences that run at the same time.
        max_num_batched_tokens: Tokens of one step at most.
        block_size: Tokens of one block of the KV cache.
        gpu_memory_utilization: Part of a GPU's memory to use.
        kv_cache_memory_bytes: Size of the KV cache; found out if None.
        seed: Kept for vLLM's command lines; requests bring their own seeds.
        device: "auto", "cpu" or "cuda".
        runner: What computes: a model, a function of the request, or that in the time a GPU would take.
        timed_device: Which GPU that is; the model is Llama 3.1 8B.
        enforce_eager: Capture no step (CUDA graphs), which saves memory and the seconds of capturing.
        num_threads: Threads of one operation on the CPU; as many as the process may use if None.
    """

    pool: str
    model: str
    served_model_name: tuple[str, ...] = ()
    redis_url: str = field(default="redis://127.0.0.1:6379/0", repr=False)
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    enable_prefix_caching: bool = True
    seed: int = 0
    device: str = "auto"
    runner: RunnerKind = "model"
    timed_device: GpuName = "h100"
    num_threads: int | None = None
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        counts = {
            "--max-model-len": self.max_model_len,
            "--max-num-seqs": self.max_num_seqs,
            "--max-num-batched-tokens": self.max_num_batched_tokens,
            "--block-size": self.block_size,
            "--kv-cache-memory-bytes": self.kv_cache_memory_bytes,
            "--num-threads": self.num_threads,
        }
        for flag, value in counts.items():
            if value is not None and value < 1:
                raise ConfigurationError(f"{flag} is {value}, but must be at least 1")
        if self.max_num_seqs > _MAX_SLOTS:
            raise ConfigurationError(f"--max-num-seqs is {self.max_num_seqs}, but may be {_MAX_SLOTS} at most")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigurationError(
                f"--gpu-memory-utilization is {self.gpu_memory_utilization}, but must be above 0 and at most 1"
            )

    @property
    def model_name(self) -> str:
        """The model's name on the bus."""
        return self.served_model_name[0] if self.served_model_name else self.model


_MAX_SLOTS = 2**16
"""Slots are u16 on the bus."""
