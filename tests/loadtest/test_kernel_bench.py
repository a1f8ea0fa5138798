import pytest
import torch

from kernels.ceilings import Ceilings
from loadtest.kernel_bench import Timing, as_row, run, time_case
from loadtest.kernel_cases import KernelCase
from loadtest.kernel_settings import KernelSettings
from shared.checkpoint import Checkpoint

CASE = KernelCase("qkv", "8 rows", lambda: None, num_calls=4, num_bytes=2_000_000, flops=50_000_000)


@pytest.fixture(autouse=True)
def _keeps_the_number_of_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_rates_are_those_of_the_least_time() -> None:
    row = as_row(CASE, Timing(0.001, 0.002), Ceilings(read_bytes_per_s=8e9, flops_per_s=200e9))
    assert row.split() == ["qkv", "8", "rows", "1.0000", "2.0000", "2.0", "25%", "50.0", "25%"]
    assert as_row(CASE, Timing(0.001, 0.002), None).split()[3:] == ["1.0000", "2.0000", "2.0", "50.0"]


def test_a_time_is_that_of_one_call() -> None:
    calls = []
    timing = time_case(counted(calls), repeats=3)
    assert len(calls) == 4
    assert 0 < timing.least_s <= timing.median_s < 0.1


def counted(calls: list[None]) -> KernelCase:
    return KernelCase("op", "", lambda: calls.append(None), num_calls=4, num_bytes=1, flops=0)


@pytest.mark.model
@pytest.mark.parametrize("rounding", [{}, {"kv_cache_dtype": "int8", "quantization": "int8"}], ids=["exact", "int8"])
def test_every_op_of_the_demo_model_is_measured(
    demo: Checkpoint, capsys: pytest.CaptureFixture[str], rounding: dict[str, str]
) -> None:
    assert run(KernelSettings(model="demo", repeats=1, num_threads=1, **rounding)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(demo.name)
    ops = [line[:26].strip() for line in printed.splitlines() if "row" in line or "tokens" in line]
    assert ops.count("qkv") == ops.count("head") == ops.count("SwiGLU") == 4
    assert {"attention, decode", "attention, prefill", "rotation and cache write", "sampling, top-p"} < set(ops)
