"""Every kernel on a GPU beside its reference, and a whole model beside itself on the CPU."""

from collections.abc import Iterable, Iterator
from typing import Final

import torch

from gpu_worker.model_runner import ModelRunner
from loadtest.gpu_check.tables import CheckResult
from loadtest.kernel_checks.check import KernelCheck
from shared.checkpoint import Checkpoint

_TEXT: Final = [(37 * place) % 40_000 + 100 for place in range(300)]
_ALLOWED: Final = 0.01
"""Of a log-likelihood: both compute in fp32, with sums in another order."""


def run_checks(checks: Iterable[KernelCheck], device: torch.device) -> Iterator[CheckResult]:
    """One result each; a kernel that raises does not keep the others from being checked."""
    for check in checks:
        try:
            comparisons = check.run(device)
        except Exception as error:
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield CheckResult(check.name, check.kernels, agrees=False, fault=fault)
            continue
        errors = [found.error / found.tolerance if found.tolerance else found.error for found in comparisons]
        agrees = all(found.agrees for found in comparisons)
        yield CheckResult(check.name, check.kernels, agrees, max(errors, default=0.0))


def check_model(checkpoint: Checkpoint, device: str) -> CheckResult:
    """Log-likelihoods of a text's tokens in fp32, on the device and on the CPU."""
    found, expected = (_log_likelihoods(checkpoint, place) for place in (device, "cpu"))
    error = float((found.cpu() - expected).abs().max()) / _ALLOWED
    return CheckResult(f"{checkpoint.name} in fp32, beside the CPU", ("the whole model",), error <= 1, error)


def _log_likelihoods(checkpoint: Checkpoint, device: str) -> torch.Tensor:
    runner = ModelRunner.load(
        checkpoint,
        dtype="float32",
        kv_cache_dtype="auto",
        quantization=None,
        block_size=16,
        kv_cache_memory_bytes=256 << 20,
        gpu_memory_utilization=0.9,
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        enforce_eager=True,
        device=device,
        model_name=checkpoint.name,
    )
    return runner.log_likelihoods(_TEXT)
