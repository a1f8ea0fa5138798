import numpy as np
import pytest
import torch

from kernels import philox, reference
from kernels.arguments import SamplingTensors
from kernels.triton import sampling
from kernels.triton.philox import uniforms
from kernels.triton.sampling import sample

ROWS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 1},
    {"temperature": 2.0, "top_p": 0.05, "min_p": 0.02},
    {"temperature": 0.3, "top_k": 500, "top_p": 0.5},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 3, "top_p": 0.999},
]


@pytest.fixture(autouse=True)
def _short_rows_have_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "COLUMNS", 128)


def tensors(rows: list[dict[str, float]], numbers: torch.Tensor) -> SamplingTensors:
    def column(name: str, default: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([row.get(name, default) for row in rows], dtype=dtype)

    return SamplingTensors(
        temperature=column("temperature", 1.0, torch.float32),
        top_k=column("top_k", 0, torch.int64),
        top_p=column("top_p", 1.0, torch.float64),
        min_p=column("min_p", 0.0, torch.float32),
        uniforms=numbers,
    )


def test_every_parameter_chooses_what_the_reference_chooses() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(len(ROWS), 300)
    logits[0, 10:] = float("-inf")
    how = tensors(ROWS, torch.rand(len(ROWS), dtype=torch.float64))
    assert torch.equal(sample(logits, how), reference.sample(logits, how))


def test_equal_weights_stay_or_go_together_and_the_ends_are_reached() -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, -1.0, float("-inf")]]).expand(4, -1)
    rows = [{"top_k": 2}, {"top_k": 2}, {"top_p": 0.3}, {}]
    how = tensors(rows, torch.tensor([0.0, 1 - 2**-52, 0.5, 1 - 2**-52], dtype=torch.float64))
    assert sample(logits, how).tolist() == [1, 3, 2, 4]


def test_random_numbers_are_those_of_the_host() -> None:
    seeds = np.random.default_rng(0).integers(0, 2**64, 70, np.uint64)
    positions = np.arange(70) * (2**26 + 1)
    expected = philox.uniforms(seeds, positions)
    found = uniforms(torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(positions))
    np.testing.assert_array_equal(found.numpy(), expected)
