from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.arguments import SamplingTensors
from kernels.ops import CPU, REFERENCE

VOCABULARY = 3_001


def how(uniforms: Tensor, **parameters: float) -> SamplingTensors:
    def column(name: str, default: float, dtype: torch.dtype) -> Tensor:
        return torch.full((len(uniforms),), parameters.get(name, default), dtype=dtype)

    return SamplingTensors(
        temperature=column("temperature", 1.0, torch.float32),
        top_k=column("top_k", 0, torch.int64),
        top_p=column("top_p", 1.0, torch.float64),
        min_p=column("min_p", 0.0, torch.float32),
        uniforms=uniforms,
    )


PARAMETERS: list[dict[str, float]] = [
    {},
    {"temperature": 0.01},
    {"temperature": 30.0},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 100_000},
    {"top_p": 0.5},
    {"top_p": 1e-9},
    {"top_p": 0.999, "temperature": 5.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.05, "temperature": 0.8},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_samplers_choose_the_same_tokens(parameters: dict[str, float], spread: float) -> None:
    torch.manual_seed(1)
    logits = torch.randn(40, VOCABULARY) * spread
    logits[:, ::7] = float("-inf")
    parameter = how(torch.rand(40, dtype=torch.float64), **parameters)
    assert CPU.sample(logits.clone(), parameter).tolist() == REFERENCE.sample(logits, parameter).tolist()


def test_rows_with_different_parameters_do_not_disturb_each_other() -> None:
    torch.manual_seed(2)
    logits = torch.randn(len(PARAMETERS), VOCABULARY) * 2
    rows = [how(torch.rand(1, dtype=torch.float64), **parameters) for parameters in PARAMETERS]
    together = SamplingTensors(
        *(torch.cat([getattr(row, name) for row in rows]) for name in SamplingTensors.__dataclass_fields__)
    )
    alone = [int(CPU.sample(logits[row : row + 1].clone(), rows[row])) for row in range(len(rows))]
    assert CPU.sample(logits.clone(), together).tolist() == alone


@pytest.mark.parametrize("sample", [REFERENCE.sample, CPU.sample], ids=["reference", "cpu"])
class TestEachSampler:
    def test_frequencies_follow_the_softmax(self, sample: Callable[[Tensor, SamplingTensors], Tensor]) -> None:
        logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(2000, 4)
        uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
        counts = torch.bincount(sample(logits.clone(), how(uniforms, temperature=0.7)), minlength=4)
        torch.testing.assert_close(counts / 2000, (logits[0] / 0.7).softmax(-1), atol=6e-4, rtol=0)

    def test_the_extreme_numbers_choose_the_first_and_the_last_token_that_has_weight(
        self, sample: Callable[[Tensor, SamplingTensors], Tensor]
    ) -> None:
        logits = torch.zeros(2, VOCABULARY)
        logits[:, [0, 1, 2998, 2999, 3000]] = float("-inf")
        uniforms = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
        assert sample(logits, how(uniforms)).tolist() == [2, 2997]

    def test_tokens_of_equal_weight_stay_or_go_together(
        self, sample: Callable[[Tensor, SamplingTensors], Tensor]
    ) -> None:
        logits = torch.tensor([1.0, 3.0, 1.0, 3.0, 3.0, 0.0]).expand(300, 6)
        uniforms = torch.arange(300, dtype=torch.float64) / 300
        for cut in ({"top_k": 2}, {"top_p": 0.4}, {"min_p": 0.9}):
            assert set(sample(logits.clone(), how(uniforms, **cut)).tolist()) == {1, 3, 4}

    def test_top_p_is_taken_of_what_top_k_left(self, sample: Callable[[Tensor, SamplingTensors], Tensor]) -> None:
        logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(200, 4)
        uniforms = torch.arange(200, dtype=torch.float64) / 200
        # Of the two left, 0.4 is 57 % of the mass.
        assert set(sample(logits.clone(), how(uniforms, top_k=2, top_p=0.55)).tolist()) == {0}
        assert set(sample(logits.clone(), how(uniforms, top_k=2, top_p=0.6)).tolist()) == {0, 1}

    def test_a_wide_nucleus_is_found_beyond_every_shortlist(
        self, sample: Callable[[Tensor, SamplingTensors], Tensor]
    ) -> None:
        logits = torch.linspace(0, -0.01, VOCABULARY).expand(2, VOCABULARY)
        last = how(torch.tensor([1 - 1e-9, 0.5], dtype=torch.float64), top_p=0.8)
        found = sample(logits.clone(), last)
        assert abs(int(found[0]) - 0.8 * VOCABULARY) < 0.01 * VOCABULARY
        assert found.tolist() == REFERENCE.sample(logits, replace(last)).tolist()
