"""What `pagestream bench kernels` is told."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """What is measured, each field named like its flag.

    Attributes:
        num_threads: None for one on each core.
        repeats: Timings of each op, after one that does not count.
    """

    model: str
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    num_threads: int | None = None
    repeats: int = 10
