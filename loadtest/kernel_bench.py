"""`pagestream bench kernels`: the time of each op, beside what the machine can do at best."""

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from gpu_worker.ops_selection import choose_ops, native_library
from gpu_worker.precision import Precision
from gpu_worker.quantization import QuantizedWeights
from gpu_worker.weights import Weights, open_weights
from kernels.ceilings import Ceilings, measure
from kernels.native_build import NativeBuildError
from loadtest.kernel_cases import KernelCase, KernelCases
from loadtest.kernel_settings import KernelSettings
from shared.checkpoint import resolve
from shared.model_config import ModelConfig

_BLOCK_SIZE = 16
_ROW = "{:<26}{:<20}{:>10}{:>10}{:>8}{:>8}{:>10}{:>8}"


class Timing(NamedTuple):
    """One call of an op, in seconds."""

    least_s: float
    median_s: float


def run(settings: KernelSettings) -> int:
    """Measure, and print the table line by line.

    Returns:
        The exit status, 0.

    Raises:
        ConfigurationError: a setting is wrong.
        CheckpointError: the model cannot be read.
    """
    torch.set_num_threads(settings.num_threads or len(os.sched_getaffinity(0)))
    with torch.inference_mode():
        for line in _report(settings):
            print(line, flush=True)
    return 0


def time_case(case: KernelCase, repeats: int) -> Timing:
    """Time one op, some times after a first one that does not count."""
    case.run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        case.run()
        times.append((time.perf_counter() - started) / case.num_calls)
    return Timing(min(times), statistics.median(times))


def as_row(case: KernelCase, timing: Timing, ceilings: Ceilings | None) -> str:
    """A line of the table; rates are those of the least time."""
    bytes_per_s, flops_per_s = case.num_bytes / timing.least_s, case.flops / timing.least_s
    return _ROW.format(
        case.op,
        case.size,
        f"{timing.least_s * 1e3:.4f}",
        f"{timing.median_s * 1e3:.4f}",
        f"{bytes_per_s / 1e9:.1f}",
        f"{bytes_per_s / ceilings.read_bytes_per_s:.0%}" if ceilings else "",
        f"{flops_per_s / 1e9:.1f}" if case.flops else "",
        f"{flops_per_s / ceilings.flops_per_s:.0%}" if ceilings and case.flops else "",
    ).rstrip()


def _report(settings: KernelSettings) -> Iterator[str]:
    cpu = torch.device("cpu")
    checkpoint = resolve(settings.model)
    config = ModelConfig.from_checkpoint(checkpoint)
    ops = choose_ops(cpu, block_size=_BLOCK_SIZE, head_dim=config.head_dim)
    precision = Precision.choose(
        "auto", config, ops, cpu, kv_cache_dtype=settings.kv_cache_dtype, quantization=settings.quantization
    )
    weights: Weights = open_weights(
        checkpoint, config, dtype=precision.activations, matrix_dtype=precision.matrices, device=cpu
    )
    if precision.quantization is not None:
        weights = QuantizedWeights(weights, precision.quantization, int8_has_blocks=ops.int8_has_blocks)
    yield f"{checkpoint.name}: {precision}, by {ops.name} kernels, {torch.get_num_threads()} threads"
    ceilings: Ceilings | None = None
    try:
        ceilings = measure(native_library())
    except (NativeBuildError, OSError) as error:
        yield f"this machine's ceilings are not known: {error}"
    else:
        yield (
            f"at best this machine reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s from memory and does "
            f"{ceilings.flops_per_s / 1e9:.0f} GFLOP/s of fp32 in vectors: 100 % below"
        )
        yield "more is what comes from a cache, or is multiplied in fewer bits or by a matrix unit"
    yield f"load average when this started: {os.getloadavg()[0]:.1f}; work of others takes its part of all figures"
    yield ""
    yield from _table(KernelCases(config, weights, ops, precision, cpu).all(), ceilings, settings.repeats)


def _table(cases: Iterable[KernelCase], ceilings: Ceilings | None, repeats: int) -> Iterator[str]:
    yield _ROW.format("op", "of", "least, ms", "median", "GB/s", "", "GFLOP/s", "").rstrip()
    for case in cases:
        yield as_row(case, time_case(case, repeats), ceilings)
