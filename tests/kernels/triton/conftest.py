"""Triton's interpreter is slow. The ordinary run takes the elementwise kernels, and the whole model by all of them
(`tests/gpu_worker/test_decoder.py`); `make test-kernels` takes every kernel beside its reference."""

import os

collect_ignore = (
    []
    if os.environ.get("KERNEL_TESTS")
    else ["test_aot.py", "test_attention.py", "test_sampling.py", "test_quantized_linear.py"]
)
