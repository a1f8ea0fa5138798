import numpy as np
import pytest
import torch

from gpu_worker.batch_state import BatchState
from gpu_worker.logits_processors.pipeline import LogitsPipeline, standard_processors
from gpu_worker.sampler import Sampler
from kernels.ops import CPU, REFERENCE, Ops
from shared.sampling import SamplingParams
from tests.gpu_worker.transcript import admit, compute

VOCABULARY = 60
PROMPT = [3, 3, 7, 9]
OUTPUT = [7, 7, 11]

PARAMETERS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, presence_penalty=1.5),
    SamplingParams(temperature=0.0, frequency_penalty=0.9, repetition_penalty=1.3),
    SamplingParams(temperature=0.0, repetition_penalty=0.6),
    SamplingParams(temperature=1.0, seed=5),
    SamplingParams(temperature=0.7, seed=2**64 - 3, top_p=0.8, presence_penalty=-2.0),
    SamplingParams(temperature=1.3, seed=9, top_k=5, frequency_penalty=2.0),
    SamplingParams(temperature=0.9, seed=1, min_p=0.1, min_tokens=10, stop_token_ids=(1, 2, 50)),
]


def sampler_of(parameters: list[SamplingParams], ops: Ops = CPU) -> Sampler:
    """With one row for each of the parameters, all with the same prompt and output."""
    state = BatchState(
        max_num_seqs=16,
        max_model_len=32,
        max_num_batched_tokens=512,
        block_size=16,
        num_blocks=16,
        vocab_size=VOCABULARY,
    )
    tokens = PROMPT + OUTPUT
    admitted = [
        admit(slot, tokens, [slot], sampling=sampling, num_prompt=len(PROMPT))
        for slot, sampling in enumerate(parameters)
    ]
    plan = compute(dict.fromkeys(range(len(parameters)), len(tokens)), admitted=admitted)
    state.advance(state.apply(plan))
    sampler = Sampler(state, ops, LogitsPipeline(standard_processors(VOCABULARY), max_num_seqs=16))
    sampler.apply(plan)
    return sampler


def penalized(logits: np.ndarray, sampling: SamplingParams) -> list[float]:
    """As the documentation of `SamplingParams` says, token by token."""
    scores = []
    for token, score in enumerate(logits.tolist()):
        if token in PROMPT + OUTPUT:
            score = score / sampling.repetition_penalty if score > 0 else score * sampling.repetition_penalty  # noqa: PLW2901
        score -= sampling.frequency_penalty * OUTPUT.count(token) + sampling.presence_penalty * (token in OUTPUT)  # noqa: PLW2901
        scores.append(-np.inf if len(OUTPUT) < sampling.min_tokens and token in sampling.stop_token_ids else score)
    return scores


@pytest.mark.parametrize("trial", range(5))
def test_each_row_is_chosen_by_its_own_parameters(trial: int) -> None:
    logits = torch.randn(len(PARAMETERS), VOCABULARY, generator=torch.Generator().manual_seed(trial)) * 3
    slots = np.arange(len(PARAMETERS))
    together = sampler_of(PARAMETERS).choose(logits.clone(), slots)
    assert together.is_valid == [True] * len(PARAMETERS)
    for slot, sampling in enumerate(PARAMETERS):
        scores = torch.tensor([penalized(logits[slot].numpy(), sampling)])
        plain = SamplingParams(
            temperature=sampling.temperature,
            seed=sampling.seed,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        naive = sampler_of([plain], REFERENCE).choose(scores, np.array([0]))
        assert together.tokens[slot] == naive.tokens[0]


def test_greedy_rows_take_the_likeliest_token() -> None:
    logits = torch.randn(3, VOCABULARY)
    chosen = sampler_of(PARAMETERS[:1] * 3).choose(logits.clone(), np.arange(3))
    assert chosen.tokens == logits.argmax(-1).tolist()


def test_the_same_seed_and_position_choose_the_same_token_in_any_row() -> None:
    logits = torch.randn(1, VOCABULARY).repeat(4, 1)
    chosen = sampler_of([PARAMETERS[4]] * 4).choose(logits, np.array([3, 0, 2, 1]))
    assert len(set(chosen.tokens)) == 1


def test_seeds_spread_choices_as_the_softmax_says() -> None:
    logits = torch.zeros(16, VOCABULARY) - torch.inf
    logits[:, :2] = 0
    chosen: list[int] = []
    for seed in range(0, 800, 16):
        parameters = [SamplingParams(temperature=1.0, seed=seed + row) for row in range(16)]
        chosen += sampler_of(parameters).choose(logits.clone(), np.arange(16)).tokens
    assert set(chosen) == {0, 1}
    assert abs(sum(chosen) - 400) < 60


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("sampling", [PARAMETERS[0], PARAMETERS[2], PARAMETERS[5]], ids=["greedy", "penalty", "random"])
def test_a_row_of_bad_numbers_is_not_valid_and_harms_no_other(bad: float, sampling: SamplingParams) -> None:
    logits = torch.randn(3, VOCABULARY)
    expected = sampler_of([sampling] * 3).choose(logits.clone(), np.arange(3))
    logits[1, 20] = bad
    found = sampler_of([sampling] * 3).choose(logits.clone(), np.arange(3))
    assert found.is_valid == [True, False, True]
    assert (found.tokens[0], found.tokens[2]) == (expected.tokens[0], expected.tokens[2])


def test_a_row_with_nothing_left_is_not_valid() -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    assert sampler_of(PARAMETERS[:1]).choose(logits, np.array([0])).is_valid == [False]
