"""What `make gpu-check` says; what it measures needs a GPU."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from gpu_worker.precision import Precision
from kernels.ops import REFERENCE
from kernels.roofline import GPUS, DecoderSize, KernelWork
from kernels.triton.linear import keeps, pack_linear
from loadtest.gpu_check import tables
from loadtest.gpu_check.__main__ import main
from loadtest.gpu_check.numerics import run_checks
from loadtest.gpu_check.tables import CheckResult, KernelTime, Throughput
from loadtest.kernel_cases import KernelCases
from loadtest.kernel_checks.check import Comparison, KernelCheck
from loadtest.random_weights import RandomWeights, llama_config

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "sees no GPU" in said
    assert "TORCH_INDEX" in said
    assert "make test-kernels" in said


def test_a_kernel_that_is_wrong_or_raises_does_not_hide_the_others() -> None:
    def wrong(_: torch.device) -> Iterator[Comparison]:
        yield Comparison(torch.ones(2), torch.full((2,), 1.5), 0.1)

    def right(_: torch.device) -> Iterator[Comparison]:
        yield Comparison(torch.ones(2), torch.full((2,), 1.05), 0.1)

    def raising(_: torch.device) -> Iterator[Comparison]:
        raise RuntimeError("out of\nregisters")
        yield

    checks = [KernelCheck(name, ("k",), run) for name, run in (("a", wrong), ("b", raising), ("c", right))]
    results = list(run_checks(checks, CPU))
    assert [result.agrees for result in results] == [False, False, True]
    lines = list(tables.numerics(results))
    assert lines[0] == "## Numerics: 1 of 3 checks agree"
    assert "| k | 1 of 3 | 3.33 |" in lines
    assert "- **failed**: k: a: off by 3.33 times what is allowed" in lines
    assert "- **failed**: k: b: RuntimeError: out of registers" in lines


def test_times_stand_beside_the_roof_of_the_gpu() -> None:
    h100 = tables.roof_of("NVIDIA H100 80GB HBM3")
    assert h100 is GPUS["h100"]
    assert tables.roof_of("AMD Instinct MI300X") is GPUS["mi300x"]
    assert tables.roof_of("NVIDIA GeForce RTX 4090") is None
    time = KernelTime("bf16", "1 row", 2e-6, KernelWork("qkv", 3.35e6, 1e9))
    assert "| bf16 | qkv | 1 row | 2.0 | 1,675 | 500.0 | 51% |" in list(tables.times([time], h100))
    assert "| bf16 | qkv | 1 row | 2.0 | 1,675 | 500.0 |  |" in list(tables.times([time], None))
    assert "| 32 | 1,000 | 500 |" in list(tables.end_to_end("demo", [Throughput(32, 1000.4, 500.0)]))
    assert CheckResult("a", ("k",), agrees=True).error == 0


@pytest.mark.parametrize("kind", ["bf16", "int4", "fp8"])
def test_every_case_runs_with_weights_of_every_kind(kind: str) -> None:
    size = DecoderSize(
        num_layers=1, hidden_size=128, intermediate_size=256, num_heads=4, num_kv_heads=2, head_dim=32, vocab_size=64
    )
    config = llama_config(size, num_layers=1)
    weights = RandomWeights(config, kind, CPU)
    numbers = torch.bfloat16 if kind == "bf16" else torch.float32
    assert keeps(weights.matrix("model.layers.0.mlp.down_proj.weight")) == (kind != "bf16")
    ops = replace(REFERENCE, pack_linear=pack_linear) if kind == "bf16" else REFERENCE
    cases = KernelCases(config, weights, ops, Precision(numbers, numbers, numbers), CPU)
    seen = set()
    for case in cases.all() if kind == "bf16" else cases.linears():
        if not case.size.startswith(("128", "32 of")):
            case.run()
        seen.add(case.op)
    assert {"qkv", "attention output", "gate and up", "down"} <= seen
