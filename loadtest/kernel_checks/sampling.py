"""Checks of sampling without a sort, and of the random numbers made on the device: the very same as the host's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from kernels import philox, reference
from kernels.arguments import SamplingTensors
from kernels.triton.philox import uniforms
from kernels.triton.sampling import sample
from loadtest.kernel_checks.check import Comparison, KernelCheck

_ROWS: Final[Sequence[Mapping[str, float]]] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 1},
    {"temperature": 2.0, "top_p": 0.05, "min_p": 0.02},
    {"temperature": 0.3, "top_k": 500, "top_p": 0.5},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 3, "top_p": 0.999},
)


def _tensors(rows: Sequence[Mapping[str, float]], numbers: Tensor) -> SamplingTensors:
    def column(name: str, default: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([row.get(name, default) for row in rows], dtype=dtype)

    return SamplingTensors(
        temperature=column("temperature", 1.0, torch.float32),
        top_k=column("top_k", 0, torch.int64),
        top_p=column("top_p", 1.0, torch.float64),
        min_p=column("min_p", 0.0, torch.float32),
        uniforms=numbers,
    )


def _moved(how: SamplingTensors, device: torch.device) -> SamplingTensors:
    names = ("temperature", "top_k", "top_p", "min_p", "uniforms")
    return SamplingTensors(**{name: getattr(how, name).to(device) for name in names})


def _every_parameter(vocab_size: int) -> Callable[[torch.device], Iterator[Comparison]]:
    def compare(device: torch.device) -> Iterator[Comparison]:
        logits = 3 * torch.randn(len(_ROWS), vocab_size)
        logits[0, 10:] = float("-inf")
        how = _tensors(_ROWS, torch.rand(len(_ROWS), dtype=torch.float64))
        yield Comparison(sample(logits.to(device), _moved(how, device)), reference.sample(logits, how))

    return compare


def _equal_weights(device: torch.device) -> Iterator[Comparison]:
    """They stay or go together, and the ends are reached."""
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, -1.0, float("-inf")]]).expand(4, -1).contiguous()
    rows: list[Mapping[str, float]] = [{"top_k": 2}, {"top_k": 2}, {"top_p": 0.3}, {}]
    how = _tensors(rows, torch.tensor([0.0, 1 - 2**-52, 0.5, 1 - 2**-52], dtype=torch.float64))
    yield Comparison(sample(logits.to(device), _moved(how, device)), torch.tensor([1, 3, 2, 4]))


def _random_numbers(device: torch.device) -> Iterator[Comparison]:
    seeds = np.random.default_rng(0).integers(0, 2**64, 70, np.uint64)
    positions = np.arange(70) * (2**26 + 1)
    expected = torch.from_numpy(philox.uniforms(seeds, positions))
    given = torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(positions)
    yield Comparison(uniforms(*(part.to(device) for part in given)), expected)


SAMPLING: Final = (
    KernelCheck("every parameter", ("sample_kernel",), _every_parameter(300)),
    KernelCheck("every parameter, rows of several tiles", ("sample_kernel",), _every_parameter(9000)),
    KernelCheck("equal weights", ("sample_kernel",), _equal_weights, is_quick=True),
    KernelCheck("random numbers", ("uniforms_kernel",), _random_numbers, is_quick=True),
)
