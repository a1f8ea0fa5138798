"""What parameters do to the frequencies of tokens, over many seeds: each test fails if its parameter is ignored.

The expected probabilities are computed here, from the definitions, and compared by Pearson's chi-squared; the seeds are
fixed.
"""

import numpy as np
import pytest
import torch

from gpu_worker.batch_state import BatchState
from gpu_worker.logits_processors.pipeline import LogitsPipeline, standard_processors
from gpu_worker.ops_selection import choose_ops
from gpu_worker.sampler import Sampler
from kernels.ops import CPU, Ops
from shared.sampling import SamplingParams
from tests.gpu_worker.transcript import admit, compute

LOGITS = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])
PROMPT, OUTPUT = [0, 2], [1, 1, 3]
NUM_ROWS = 64
NUM_DRAWS = 4096


def chi_squared_limit(degrees: int) -> float:
    """What the statistic exceeds once in 100,000 times (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + 4.265 * part**0.5) ** 3


def draw(ops: Ops, logits: np.ndarray, **parameters: object) -> np.ndarray:
    """How often each token is chosen, over as many seeds as there are draws."""
    counts = np.zeros(len(logits), np.int64)
    tokens = PROMPT + OUTPUT
    state = BatchState(
        max_num_seqs=NUM_ROWS, max_model_len=16, max_num_batched_tokens=NUM_ROWS * 8, block_size=16,
        num_blocks=NUM_ROWS, vocab_size=len(logits),
    )  # fmt: skip
    sampling = SamplingParams(**parameters)  # type: ignore[arg-type]
    admitted = [admit(slot, tokens, [slot], num_prompt=len(PROMPT), sampling=sampling) for slot in range(NUM_ROWS)]
    plan = compute(dict.fromkeys(range(NUM_ROWS), len(tokens)), admitted=admitted)
    state.advance(state.apply(plan))
    sampler = Sampler(state, ops, LogitsPipeline(standard_processors(len(logits)), max_num_seqs=NUM_ROWS))
    sampler.apply(plan)
    for first in range(0, NUM_DRAWS, NUM_ROWS):
        state.seeds[:] = np.arange(first, first + NUM_ROWS)
        table = torch.tensor(np.tile(logits, (NUM_ROWS, 1)), dtype=torch.float32)
        chosen = sampler.choose(table, np.arange(NUM_ROWS)).tokens
        counts += np.bincount(chosen, minlength=len(logits))
    return counts


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def kept(probabilities: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return np.where(keep, probabilities, 0) / probabilities[keep].sum()


def penalized() -> np.ndarray:
    """A repetition of 1.5 for all that was there; 0.4 once and 0.3 a time for the output's tokens."""
    scores = LOGITS.copy()
    seen = np.isin(np.arange(8), PROMPT + OUTPUT)
    scores[seen] = np.where(scores[seen] > 0, scores[seen] / 1.5, scores[seen] * 1.5)
    for token in set(OUTPUT):
        scores[token] -= 0.4 + 0.3 * OUTPUT.count(token)
    return scores


def biased() -> np.ndarray:
    scores = LOGITS.copy()
    scores[7] += 3.0
    scores[0] -= 1.0
    return scores


def only(*tokens: int) -> np.ndarray:
    return np.isin(np.arange(8), tokens)


P = softmax(LOGITS)
CASES: dict[str, tuple[dict[str, object], np.ndarray]] = {
    "nothing": ({}, P),
    "temperature below 1": ({"temperature": 0.5}, softmax(LOGITS / 0.5)),
    "temperature above 1": ({"temperature": 2.0}, softmax(LOGITS / 2)),
    "top_k": ({"top_k": 3}, kept(P, only(0, 1, 2))),
    "top_p": ({"top_p": 0.6}, kept(P, only(0, 1))),
    "min_p": ({"min_p": 0.2}, kept(P, 0.2 * P.max() <= P)),
    "penalties": (
        {"repetition_penalty": 1.5, "presence_penalty": 0.4, "frequency_penalty": 0.3},
        softmax(penalized()),
    ),
    "logit_bias": ({"logit_bias": ((7, 3.0), (0, -1.0))}, softmax(biased())),
    "allowed_token_ids": ({"allowed_token_ids": (2, 5, 6)}, kept(P, only(2, 5, 6))),
    "bad_words": ({"bad_words": ((0,), (1, 3, 2), (1, 1, 4))}, kept(P, ~only(0, 2))),
    "min_tokens": ({"min_tokens": 4, "stop_token_ids": (0, 1)}, kept(P, ~only(0, 1))),
    "min_tokens reached": ({"min_tokens": 3, "stop_token_ids": (0, 1)}, P),
    "bias and min_p together": (
        {"logit_bias": ((7, 3.0), (0, -1.0)), "min_p": 0.3},
        kept(softmax(biased()), softmax(biased()) >= 0.3 * softmax(biased()).max()),
    ),
}
OPS = {"torch": CPU, "best": choose_ops(torch.device("cpu"), block_size=16, head_dim=64)}


def statistic(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    possible = expected > 0
    assert not counts[~possible].any(), "a token was chosen that is impossible"
    difference = counts[possible] - NUM_DRAWS * expected[possible]
    return float((difference**2 / (NUM_DRAWS * expected[possible])).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_as_frequent_as_the_parameters_say(name: str, ops: str) -> None:
    parameters, expected = CASES[name]
    found, degrees = statistic(draw(OPS[ops], LOGITS, **parameters), expected)
    assert found < chi_squared_limit(degrees)


def test_each_case_would_be_noticed() -> None:
    """The plain distribution does not pass for any other: this many draws are enough to tell them apart."""
    plain = draw(CPU, LOGITS)
    for name, (_, expected) in CASES.items():
        if np.allclose(expected, P):
            continue
        possible = expected > 0
        difference = plain[possible] - NUM_DRAWS * expected[possible]
        found = (difference**2 / (NUM_DRAWS * expected[possible])).sum()
        assert found > 4 * chi_squared_limit(int(possible.sum()) - 1) or plain[~possible].any(), name


def test_another_seed_is_another_draw_and_the_same_is_the_same() -> None:
    assert np.array_equal(draw(CPU, LOGITS), draw(CPU, LOGITS))
    near_zero = draw(CPU, LOGITS, temperature=0.0)
    assert near_zero.tolist() == [NUM_DRAWS, 0, 0, 0, 0, 0, 0, 0]
