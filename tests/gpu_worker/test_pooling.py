"""Prompts as vectors, against transformers' last hidden states."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from gpu_worker.model_runner import ModelRunner
from shared.checkpoint import Checkpoint
from shared.sampling import Pooling, SamplingParams
from tests.gpu_worker.transcript import admit, compute

PROMPT = [(37 * place) % 40_000 + 100 for place in range(50)]
OTHER = [504, 3575, 282, 4649, 314]


def asking(pooling: Pooling) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=1, pooling=pooling)


@pytest.fixture(scope="module")
def demo_runner(demo: Checkpoint, load: Callable[..., ModelRunner]) -> ModelRunner:
    return load(demo, max_model_len=512)


@pytest.fixture(scope="module")
def expected(demo_oracle: LlamaForCausalLM) -> dict[Pooling, np.ndarray]:
    with torch.inference_mode():
        states = demo_oracle.model(torch.tensor([PROMPT])).last_hidden_state[0]
    return {Pooling.LAST: states[-1].numpy(), Pooling.MEAN: states.mean(0).numpy()}


def vector_of(runner: ModelRunner, pooling: Pooling, chunks: list[int]) -> bytes:
    """Computed chunk by chunk, beside a sequence that only decodes."""
    runner.reset()
    runner.step(compute({1: len(OTHER)}, admitted=[admit(1, OTHER, [8, 9])]))
    admitted = [admit(0, PROMPT, range(4), sampling=asking(pooling))]
    for count in chunks[:-1]:
        assert all(row.embedding is None for row in runner.step(compute({1: 1, 0: count}, admitted=admitted)).rows)
        admitted = []
    output = runner.step(compute({1: 1, 0: chunks[-1]}, admitted=admitted))
    found = {row.slot: row.embedding for row in output.rows}
    assert found[1] is None
    assert found[0] is not None
    return found[0]


@pytest.mark.model
@pytest.mark.parametrize("pooling", [Pooling.LAST, Pooling.MEAN])
def test_vectors_are_transformers_own_whatever_the_chunks(
    demo_runner: ModelRunner, expected: dict[Pooling, np.ndarray], pooling: Pooling
) -> None:
    whole = vector_of(demo_runner, pooling, [50])
    np.testing.assert_allclose(np.frombuffer(whole, "<f4"), expected[pooling], atol=2e-3, rtol=2e-3)
    assert vector_of(demo_runner, pooling, [16, 1, 20, 13]) == whole
    assert vector_of(demo_runner, pooling, [49, 1]) == whole


@pytest.mark.model
def test_the_last_token_needs_nothing_but_a_cached_prefix(demo_runner: ModelRunner) -> None:
    whole = vector_of(demo_runner, Pooling.LAST, [50])
    sharing = admit(2, PROMPT, [0, 1, 2, 20], sampling=asking(Pooling.LAST), num_computed=48)
    output = demo_runner.step(compute({2: 2}, admitted=[sharing], released=[0]))
    assert [row.embedding for row in output.rows] == [whole]


@pytest.mark.model
def test_a_released_row_leaves_no_sum_to_the_next(demo_runner: ModelRunner) -> None:
    whole = vector_of(demo_runner, Pooling.MEAN, [50])
    demo_runner.reset()
    demo_runner.step(compute({0: 7}, admitted=[admit(0, PROMPT, range(4), sampling=asking(Pooling.MEAN))]))
    again = admit(0, PROMPT, range(4), sampling=asking(Pooling.MEAN))
    output = demo_runner.step(compute({0: 50}, admitted=[again], released=[0]))
    assert [row.embedding for row in output.rows] == [whole]
