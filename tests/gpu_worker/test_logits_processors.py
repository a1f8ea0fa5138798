"""Each processor against what `SamplingParams` says, token by token; a sequence's tokens are all that they know."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.logits_processors.pipeline import LogitsPipeline, standard_processors
from shared.messages import StepPlan
from shared.sampling import SamplingParams
from tests.gpu_worker.transcript import admit, compute

VOCABULARY = 40
NUM_SLOTS = 8
PROMPT = [3, 3, 7, 9]

PARAMETERS = {
    "none": SamplingParams(),
    "presence": SamplingParams(presence_penalty=1.5),
    "frequency": SamplingParams(frequency_penalty=-0.7),
    "repetition": SamplingParams(repetition_penalty=1.3),
    "bias": SamplingParams(logit_bias=((3, 2.5), (11, -100.0), (99, 5.0))),
    "allowed": SamplingParams(allowed_token_ids=(3, 5, 5, 11, 99)),
    "bad words": SamplingParams(bad_words=((4,), (7, 7), (7, 11, 2), (9, 7), (5, 5, 5), (3, 99), (99,))),
    "min tokens": SamplingParams(min_tokens=5, stop_token_ids=(1, 7, 99)),
    "all": SamplingParams(
        presence_penalty=0.3,
        frequency_penalty=1.1,
        repetition_penalty=0.8,
        logit_bias=((7, 1.0), (4, 50.0)),
        allowed_token_ids=(*range(0, 40, 2), 7, 3, 1),
        bad_words=((4,), (7, 2), (2, 2)),
        min_tokens=3,
        stop_token_ids=(1,),
    ),
}


def pipeline() -> LogitsPipeline:
    return LogitsPipeline(standard_processors(VOCABULARY), max_num_seqs=NUM_SLOTS)


def admission(slot: int, sampling: SamplingParams, output: list[int]) -> StepPlan:
    return compute({}, admitted=[admit(slot, PROMPT + output, [0], num_prompt=len(PROMPT), sampling=sampling)])


def expected(logits: list[float], sampling: SamplingParams, output: list[int]) -> list[float]:
    """As the documentation says, for one row, in fp64."""
    scores = list(logits)
    for token, bias in sampling.logit_bias:
        if token < VOCABULARY:
            scores[token] += bias
    for token in range(VOCABULARY):
        if token in PROMPT + output:
            factor = sampling.repetition_penalty
            scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
        scores[token] -= sampling.frequency_penalty * output.count(token)
        scores[token] -= sampling.presence_penalty * (token in output)
        is_allowed = not sampling.allowed_token_ids or token in sampling.allowed_token_ids
        is_early_end = len(output) < sampling.min_tokens and token in sampling.stop_token_ids
        ends_bad_word = any(
            [*output, token][-len(word) :] == list(word) for word in sampling.bad_words if len(word) <= len(output) + 1
        )
        if not is_allowed or is_early_end or ends_bad_word:
            scores[token] = -np.inf
    return scores


def logits_of(num_rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


OUTPUTS = [[], [7], [7, 7, 11], [5, 5, 9, 7, 7], [2, 2, 2, 7], [9]]


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_row_gets_what_its_parameters_say(name: str, output: list[int]) -> None:
    sampling, logits = PARAMETERS[name], logits_of(1)
    before = logits.clone()
    processors = pipeline()
    processors.apply(admission(5, sampling, output))
    processors.process(logits, np.array([5]))
    np.testing.assert_allclose(logits[0], expected(before[0].tolist(), sampling, output), rtol=1e-5, atol=1e-5)
    changes_something = name != "none" and not (name in {"presence", "frequency"} and not output)
    if name == "min tokens":
        changes_something = len(output) < sampling.min_tokens
    assert torch.equal(before, logits) == (not changes_something)


def test_rows_of_one_step_do_not_see_each_other() -> None:
    """More kinds of rows than slots in order, some of them not in the step."""
    names = list(PARAMETERS)[1:]
    processors = pipeline()
    for slot, name in enumerate(names):
        processors.apply(admission(slot, PARAMETERS[name], OUTPUTS[slot % len(OUTPUTS)]))
    slots = np.array([7, 0, 3, 4, 6, 1])
    logits = logits_of(len(slots))
    before = logits.clone()
    processors.process(logits, slots)
    for row, slot in enumerate(slots.tolist()):
        alone = expected(before[row].tolist(), PARAMETERS[names[slot]], OUTPUTS[slot % len(OUTPUTS)])
        np.testing.assert_allclose(logits[row], alone, rtol=1e-5, atol=1e-5)


@given(
    st.sampled_from(sorted(PARAMETERS)),
    st.lists(st.integers(0, 12), max_size=150),
    st.data(),
)
def test_a_sequence_admitted_again_goes_on_with_the_same_bits(
    name: str, output: list[int], data: st.DataObject
) -> None:
    """However its output is divided between what it was admitted with and what was committed since."""
    results = []
    for num_known in (0, len(output), data.draw(st.integers(0, len(output)))):
        processors = pipeline()
        processors.apply(admission(2, PARAMETERS[name], output[:num_known]))
        for token in output[num_known:]:
            processors.commit(2, token)
        logits = logits_of(1)
        processors.process(logits, np.array([2]))
        results.append(logits)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_slot_given_to_another_sequence_keeps_nothing() -> None:
    processors, logits = pipeline(), logits_of(1)
    before = logits.clone()
    processors.apply(admission(2, PARAMETERS["all"], [7, 7]))
    again = admit(2, PROMPT, [0], sampling=SamplingParams())
    processors.apply(compute({}, released=[2], admitted=[again]))
    processors.commit(2, 7)
    processors.process(logits, np.array([2]))
    assert torch.equal(before, logits)
    processors.apply(admission(3, PARAMETERS["all"], []))
    processors.clear()
    processors.process(logits, np.array([3]))
    assert torch.equal(before, logits)
