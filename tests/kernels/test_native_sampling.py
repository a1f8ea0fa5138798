import pytest
import torch

from kernels.arguments import SamplingTensors
from kernels.ops import REFERENCE, Ops
from tests.kernels.test_sampling import PARAMETERS, how


def parts(how_all: SamplingTensors, rows: slice) -> SamplingTensors:
    return SamplingTensors(*(getattr(how_all, name)[rows] for name in SamplingTensors.__dataclass_fields__))


@pytest.mark.parametrize("size", [1, 5, 300, 3_001])
def test_argmax_is_the_first_of_the_largest_and_tells_bad_rows(ops: Ops, size: int) -> None:
    logits = torch.randint(-3, 3, (40, size), generator=torch.Generator().manual_seed(size)).float()
    logits[3, size // 2], logits[4, -1], logits[5] = float("nan"), float("inf"), float("-inf")
    logits[6, : size - 1] = float("-inf")
    expected, is_finite = REFERENCE.argmax(logits)
    tokens, found = ops.argmax(logits)
    assert found.tolist() == is_finite.tolist() == [row not in (3, 4, 5) for row in range(40)]
    assert tokens[found].tolist() == expected[is_finite].tolist()


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("size", [17, 3_001])
def test_tokens_are_the_references_and_no_row_sees_another(
    ops: Ops, parameters: dict[str, float], spread: float, size: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(100, size, generator=generator) * spread
    logits[:, ::7] = float("-inf")
    logits[50:] = (logits[50:] * 8).round() / 8  # many of equal weight
    parameter = how(torch.rand(100, dtype=torch.float64, generator=generator), **parameters)
    found = ops.sample(logits, parameter)
    assert found.tolist() == REFERENCE.sample(logits, parameter).tolist()
    alone = [int(ops.sample(logits[row : row + 1], parts(parameter, slice(row, row + 1)))) for row in range(100)]
    assert found.tolist() == alone


def test_frequencies_follow_the_softmax(ops: Ops) -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).repeat(2000, 1)
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    counts = torch.bincount(ops.sample(logits, how(uniforms, temperature=0.7)), minlength=4)
    torch.testing.assert_close(counts / 2000, (logits[0] / 0.7).softmax(-1), atol=6e-4, rtol=0)


def test_the_extreme_numbers_choose_the_first_and_the_last_token_that_has_weight(ops: Ops) -> None:
    logits = torch.zeros(2, 3_001)
    logits[:, [0, 1, 2998, 2999, 3000]] = float("-inf")
    uniforms = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    assert ops.sample(logits, how(uniforms)).tolist() == [2, 2997]
