"""The arithmetic of roofs, beside sums done by hand."""

import pytest

from kernels.roofline import (
    ASSUMED_OVERHEAD_S,
    FP8,
    GPUS,
    LLAMA_8B,
    DecoderSize,
    Gpu,
    KernelWork,
    StepLoad,
    expected_seconds,
    roof_seconds,
    step_work,
)
from loadtest.roofline_tables import MARKS, PAGE, tables

TINY = DecoderSize(
    num_layers=3, hidden_size=8, intermediate_size=16, num_heads=4, num_kv_heads=2, head_dim=2, vocab_size=10
)
GPU = Gpu("small", 1e9, bytes_per_s=100, flops_per_s=1000, fp8_flops_per_s=2000)


def work_of(kernel: str, size: DecoderSize, load: StepLoad) -> KernelWork:
    return next(work for work in step_work(size, load) if work.kernel == kernel)


def test_linear_layers_move_their_weights_once_and_multiply_them_by_every_token() -> None:
    found = work_of("gate and up", TINY, StepLoad(5, 1, 5, 15))
    assert found.num_bytes == 3 * (8 * 32 * 2 + 5 * (8 + 32) * 2)
    assert found.flops == 3 * 2 * 8 * 32 * 5


def test_attention_reads_every_context_once_and_computes_every_pair() -> None:
    found = work_of("attention", TINY, StepLoad.decode(2, 7))
    assert found.num_bytes == 3 * (2 * 7 * 2 * 2 * 2 * 2 + 2 * 2 * 8 * 2)
    assert found.flops == 3 * 4 * 2 * 7 * 8
    assert StepLoad.prefill(4) == StepLoad(4, 1, 4, 1 + 2 + 3 + 4)


def test_a_kernel_takes_the_longer_of_moving_and_computing() -> None:
    assert KernelWork("k", 300, 1000).seconds(GPU) == 3
    assert KernelWork("k", 300, 5000).seconds(GPU) == 5
    assert KernelWork("k", 300, 5000, is_fp8=True).seconds(GPU) == 3
    assert KernelWork("k", 100, 5000, is_fp8=True).seconds(GPU, flops_share=0.5) == 5
    assert KernelWork("k", 100, 5e6, is_fp8=True).seconds(GPUS["a100"]) == 5e6 / 312e12


def test_a_models_weights_are_those_of_its_name() -> None:
    work = step_work(LLAMA_8B, StepLoad(0, 0, 0, 0))
    embedding = LLAMA_8B.hidden_size * LLAMA_8B.vocab_size * 2
    assert sum(part.num_bytes for part in work) + embedding == pytest.approx(8.03e9 * 2, rel=1e-3)
    assert LLAMA_8B.kv_bytes_per_token == 131_072


def test_what_is_expected_is_slower_than_the_roof() -> None:
    for gpu in GPUS.values():
        for load in (StepLoad.decode(1, 10), StepLoad.decode(64, 2000), StepLoad.prefill(4000)):
            roof = roof_seconds(LLAMA_8B, load, gpu)
            assert roof / 0.8 < expected_seconds(LLAMA_8B, load, gpu) < roof / 0.6 + 2 * ASSUMED_OVERHEAD_S
    assert expected_seconds(LLAMA_8B, StepLoad(0, 0, 0, 0), GPUS["h100"]) == ASSUMED_OVERHEAD_S
    assert FP8.bytes_per_weight == pytest.approx(1, rel=1e-3)


def test_the_page_has_these_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = page.partition(MARKS[0])[2].partition(MARKS[1])[0]
    assert told.strip() == tables().strip(), "put the output of `make roofline` between the marks of docs/roofline.md"
