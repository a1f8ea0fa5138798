"""One check: what kernels give, beside what they should."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

TOLERANCE: Final = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Of numbers around 1, by what is computed with."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output.

    Attributes:
        found: What a kernel gave.
        expected: What the reference gives; NaN where nothing must be written.
        tolerance: Of the difference, relative to numbers above 1; 0 for the very same.
    """

    found: Tensor
    expected: Tensor
    tolerance: float = 0.0

    @property
    def error(self) -> float:
        """The largest difference, relative to numbers above 1; infinite where one of both alone is NaN."""
        found, expected = self.found.detach().cpu().double(), self.expected.double()
        if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
            return float("inf")
        differences = ((found - expected).abs() / expected.abs().clamp(min=1.0)).nan_to_num(0.0)
        return float(differences.max()) if differences.numel() else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the difference is small enough."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """Some kernels with some inputs.

    Attributes:
        name: What is special about the inputs.
        kernels: Names of the kernels in `kernels.triton` that are run.
        compare: Runs them on a device; makes its inputs anew, from a seed.
        is_quick: One of the few that are enough to see each kernel run.
    """

    name: str
    kernels: tuple[str, ...]
    compare: Callable[[torch.device], Iterator[Comparison]]
    is_quick: bool = False

    def run(self, device: torch.device) -> list[Comparison]:
        """All outputs, with memory poisoned by NaN."""
        torch.manual_seed(0)
        with torch.inference_mode(), poisoned_outputs():
            return list(self.compare(device))


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Let every new tensor of floats be NaN before it is written: what a kernel leaves out shows."""
    real = torch.empty

    def empty(*shape: object, **options: object) -> Tensor:
        made: Tensor = real(*shape, **options)  # type: ignore[call-overload]
        is_poisoned = made.is_floating_point() and made.element_size() > 1
        return made.fill_(float("nan")) if is_poisoned else made

    torch.empty = empty
    try:
        yield
    finally:
        torch.empty = real
