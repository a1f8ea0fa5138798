"""Kernels in Triton's interpreter beside their plain references: each once; every case by `make test-kernels`."""

import os
import pkgutil
from importlib import import_module

import pytest
import torch

import kernels.triton
from kernels.triton import sampling
from kernels.triton.launches import SampleLaunch
from loadtest.kernel_checks.all_checks import ALL
from loadtest.kernel_checks.check import Comparison, KernelCheck

CHOSEN = [check for check in ALL if check.is_quick or os.environ.get("KERNEL_TESTS")]


@pytest.fixture(autouse=True)
def _short_rows_have_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "sample_launch", lambda _: SampleLaunch(128, 4))


@pytest.mark.parametrize("check", CHOSEN, ids=[f"{check.kernels[-1]}: {check.name}" for check in CHOSEN])
def test_kernels_agree_with_their_reference(check: KernelCheck) -> None:
    comparisons = check.run(torch.device("cpu"))
    assert comparisons
    for number, comparison in enumerate(comparisons):
        assert comparison.agrees, f"output {number} is off by {comparison.error}, allowed are {comparison.tolerance}"


def test_each_kernel_is_among_the_quick_checks() -> None:
    modules = [import_module(found.name) for found in pkgutil.iter_modules(kernels.triton.__path__, "kernels.triton.")]
    written = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert len(written) >= 11
    assert {name for check in ALL if check.is_quick for name in check.kernels} == written


def test_what_is_wrong_shows() -> None:
    numbers = torch.tensor([1.0, 2.0, float("nan")])
    assert Comparison(numbers, numbers.clone()).agrees
    assert Comparison(numbers + 1e-3, numbers, 1e-2).agrees
    assert not Comparison(numbers + 1e-1, numbers, 1e-2).agrees
    assert Comparison(torch.tensor([float("nan")]), torch.ones(1), 1.0).error == float("inf"), "not written"
    assert Comparison(torch.ones(1), torch.tensor([float("nan")]), 1.0).error == float("inf"), "written"
    assert not Comparison(torch.ones(2), torch.ones(3), 1.0).agrees
