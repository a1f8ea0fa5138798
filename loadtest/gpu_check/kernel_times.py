"""The time of each op on a GPU: of its kernels alone, since all calls are launched together as one graph."""

from collections.abc import Iterator
from typing import Any, Final, get_args

import torch
from torch import Tensor

from gpu_worker.precision import Precision
from kernels.ops import Ops
from kernels.roofline import LLAMA_8B, KernelWork
from kernels.triton.graphs import capture
from loadtest.gpu_check.tables import KernelTime
from loadtest.kernel_cases import KernelCase, KernelCases
from loadtest.random_weights import RandomWeights, WeightKind, llama_config

_NUM_LAYERS: Final = 4
"""Whose weights do not fit into any cache together."""
_REPEATS: Final = 10
_GROUPS: Final = 5


def kernel_times(ops: Ops, device: torch.device) -> Iterator[KernelTime]:
    """Every op with Llama 3.1 8B's shapes in bf16, and its linear layers in each other format."""
    config = llama_config(LLAMA_8B, num_layers=_NUM_LAYERS)
    bf16 = torch.bfloat16
    for kind in get_args(WeightKind):
        cases = KernelCases(config, RandomWeights(config, kind, device), ops, Precision(bf16, bf16, bf16), device)
        for case in cases.all() if kind == "bf16" else cases.linears():
            seconds = _seconds(case, device)
            work = KernelWork(case.op, case.num_bytes, case.flops, is_fp8=kind == "fp8")
            yield KernelTime(kind, case.size, seconds, work)


def _seconds(case: KernelCase, device: torch.device) -> float:
    """Of one call; the least of some."""
    done = torch.zeros(1, device=device)

    def run() -> Tensor:
        case.run()
        return done

    repeat = capture(run)
    start, end = _event(), _event()
    least_ms = float("inf")
    for _ in range(_GROUPS):
        start.record()
        for _ in range(_REPEATS):
            repeat()
        end.record()
        end.synchronize()
        least_ms = min(least_ms, start.elapsed_time(end))
    return least_ms / 1e3 / _REPEATS / case.num_calls


def _event() -> Any:  # noqa: ANN401  PyTorch does not type it
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
