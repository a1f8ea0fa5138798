"""Log-probabilities against transformers on the demo model, and who is told what."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from gpu_worker.model_runner import ModelRunner
from gpu_worker.runner import StepOutput
from shared.checkpoint import Checkpoint
from shared.messages import Logprobs
from shared.sampling import SamplingParams
from tests.gpu_worker.transcript import admit, compute

TOLERANCE = 1e-3
PROMPT = [(37 * place) % 40_000 + 100 for place in range(100)]
OTHER = [504, 3575, 282, 4649, 314]


class Told:
    """What a row was told, put together by place."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.prompt: dict[int, dict[int, Logprobs]] = {}
        self.output: dict[int, list[tuple[int, Logprobs | None]]] = {}

    def run(self, *arguments: object, **options: object) -> StepOutput:
        output = self._runner.step(compute(*arguments, **options))
        for slot, start, logprobs in output.prompt_logprobs:
            self.prompt.setdefault(slot, {})[start] = logprobs
        for row in output.rows:
            self.output.setdefault(row.slot, []).append((row.tokens[0], row.logprobs))
        return output


def arrays(logprobs: Logprobs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    chosen, ranks = np.frombuffer(logprobs.chosen, "<f4"), np.frombuffer(logprobs.ranks, "<u4")
    shape = (len(chosen), logprobs.num_top)
    return (
        chosen,
        ranks,
        np.frombuffer(logprobs.top_ids, "<u4").reshape(shape),
        np.frombuffer(logprobs.top, "<f4").reshape(shape),
    )


def assert_agrees(logprobs: Logprobs, expected: Tensor, tokens: list[int], num_top: int) -> None:
    """With the oracle's table [num_tokens, vocab_size]."""
    chosen, ranks, top_ids, top = arrays(logprobs)
    table = expected.numpy()
    places = np.arange(len(tokens))
    assert top.shape == (len(tokens), num_top)
    np.testing.assert_allclose(chosen, table[places, tokens], atol=TOLERANCE)
    np.testing.assert_allclose(top, -np.sort(-table, axis=1)[:, :num_top], atol=TOLERANCE)
    np.testing.assert_allclose(np.take_along_axis(table, top_ids.astype(np.int64), 1), top, atol=TOLERANCE)
    # The rank may be off by those tokens that are as likely but for rounding.
    scores = table[places, tokens][:, None]
    assert (ranks > (table > scores + TOLERANCE).sum(1)).all()
    assert (ranks <= (table > scores - TOLERANCE).sum(1) + 1).all()


@pytest.fixture(scope="module")
def runner(demo: Checkpoint, load: Callable[..., ModelRunner]) -> ModelRunner:
    return load(demo, max_model_len=512)


@pytest.mark.model
class TestDemoModel:
    def test_they_are_those_of_transformers(self, runner: ModelRunner, demo_oracle: LlamaForCausalLM) -> None:
        """Of a prompt that comes in chunks beside a decoding row, and of what is sampled after it with a bias."""
        runner.reset()
        told = Told(runner)
        asking = SamplingParams(
            temperature=0.8, seed=3, max_tokens=50, logprobs=5, prompt_logprobs=3, logit_bias=((504, 3.0), (260, -9.0)),
            repetition_penalty=1.3,
        )  # fmt: skip
        told.run({1: 5}, admitted=[admit(1, OTHER, [20])])
        told.run({0: 37, 1: 1}, admitted=[admit(0, PROMPT, range(10), sampling=asking)])
        for work in ({0: 62, 1: 1}, {0: 1, 1: 1}, {0: 1}, {0: 1, 1: 1}, {1: 1, 0: 1}):
            told.run(work)
        tokens = [token for token, _ in told.output[0]]
        with torch.inference_mode():
            table = demo_oracle(torch.tensor([PROMPT + tokens])).logits[0].log_softmax(-1)
        assert {start: len(arrays(logprobs)[0]) for start, logprobs in told.prompt[0].items()} == {1: 37, 38: 62}
        for start, logprobs in told.prompt[0].items():
            stop = start + len(arrays(logprobs)[0])
            assert_agrees(logprobs, table[start - 1 : stop - 1], PROMPT[start:stop], 3)
        assert len(tokens) == 4
        for place, (token, logprobs) in enumerate(told.output[0], len(PROMPT)):
            assert logprobs is not None
            assert_agrees(logprobs, table[place - 1 : place], [token], 5)
        assert all(logprobs is None for _, logprobs in told.output[1])
        assert told.prompt.keys() == {0}

    def test_a_prompt_that_is_computed_again_gets_the_same_bits(self, runner: ModelRunner) -> None:
        """Whole and alone, or elsewhere in other chunks: a worker that dies in the middle changes nothing."""
        asking = SamplingParams(temperature=0.0, max_tokens=50, prompt_logprobs=2)
        found = []
        for chunks in ((100,), (3, 80, 17)):
            runner.reset()
            told = Told(runner)
            admitted = [admit(0, PROMPT, range(10), sampling=asking)]
            for chunk in chunks:
                told.run({0: chunk}, admitted=admitted)
                admitted = []
            parts = [arrays(logprobs) for _, logprobs in sorted(told.prompt[0].items())]
            found.append([np.concatenate(column) for column in zip(*parts, strict=True)])
        assert all(np.array_equal(once, again) for once, again in zip(*found, strict=True))


ASKING = SamplingParams(temperature=0.0, max_tokens=9, logprobs=0, prompt_logprobs=200)


@pytest.fixture
def tiny(save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]], load: Callable[..., ModelRunner]) -> Told:
    return Told(load(save_tiny()[0]))


def test_only_the_first_choice_is_told_of_the_prompt(tiny: Told) -> None:
    admitted = [admit(slot, range(7), [slot], sampling=ASKING, choice=slot) for slot in (0, 1)]
    tiny.run({0: 7, 1: 7}, admitted=admitted)
    assert tiny.prompt.keys() == {0}
    assert all(logprobs is not None for slot in (0, 1) for _, logprobs in tiny.output[slot])


def test_a_sequence_that_comes_with_output_is_not_told_of_its_prompt_again(tiny: Told) -> None:
    tiny.run({0: 7}, admitted=[admit(0, range(7), [0], num_prompt=5, sampling=ASKING)])
    assert tiny.prompt == {}
    assert tiny.output[0][0][1] is not None


def test_no_more_tokens_are_told_than_there_are(tiny: Told) -> None:
    tiny.run({0: 7}, admitted=[admit(0, range(7), [0], sampling=ASKING)])
    chosen, _, top_ids, top = arrays(tiny.prompt[0][1])
    assert top.shape == (6, 101)
    assert all(sorted(row) == list(range(101)) for row in top_ids.tolist())
    np.testing.assert_allclose(np.exp(top).sum(1), 1, rtol=1e-5)
    places = [ids.index(token) for token, ids in enumerate(top_ids.tolist(), 1)]
    np.testing.assert_array_equal(chosen, top[np.arange(6), places])


def test_a_slot_given_to_another_sequence_tells_nothing(tiny: Told) -> None:
    tiny.run({0: 7}, admitted=[admit(0, range(7), [0], sampling=ASKING)])
    tiny.prompt.clear()
    tiny.run({0: 7}, released=[0], admitted=[admit(0, range(7), [0])])
    assert (tiny.prompt, tiny.output[0][-1][1]) == ({}, None)


def test_a_prompt_of_one_token_has_nothing_to_tell(tiny: Told) -> None:
    tiny.run({0: 1}, admitted=[admit(0, [5], [0], sampling=ASKING)])
    assert tiny.prompt == {}
