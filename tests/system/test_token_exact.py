"""Greedy output in fp32 is transformers' own, token for token, however the work is cut into steps.

The oracle looks once at a prompt with its answer: each token must be the one that it scores highest after those before
it, which is what its own greedy search would have taken. Where another one scores higher, it must be a near-tie:
summation order decides it.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from transformers import LlamaForCausalLM

from gateway.tokenizers.tokenizer_loading import load_tokenizer
from gpu_worker.model_runner import ModelRunner
from pagestream.engine import LocalEngine
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig
from shared.sampling import SamplingParams
from tests.system.prompts import prompts

NUM_TOKENS = 8
NEAR_TIE = 1e-3
EOS = 2
MAX_MODEL_LEN = 1600
BYTES_PER_BLOCK = 2 * 30 * 16 * 3 * 64 * 4
"""Keys and values, layers, tokens, heads, head_dim, fp32."""

WAYS = [(512, True, 32), (16, False, 32), (512, False, 32), (64, True, 32), (512, False, 1), (512, True, 1)]
"""Tokens of a step, prefix caching, prompts at once. The first in the ordinary run, all by `make test-exact`."""

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def prompt_ids(demo: Checkpoint) -> list[list[int]]:
    tokenizer = load_tokenizer(demo, ModelConfig.from_checkpoint(demo))
    ids = [tokenizer.encode(prompt) for prompt in prompts()]
    assert len(ids) == 40
    assert min(map(len, ids)) == 1
    assert max(map(len, ids)) >= 1500
    return ids


Gaps = Callable[[tuple[int, ...], tuple[int, ...]], Sequence[float]]
"""By how much the oracle's best token beats each token of an answer to a prompt."""


@pytest.fixture(scope="module")
def gaps(demo_oracle: LlamaForCausalLM) -> Gaps:
    @cache
    def look(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Sequence[float]:
        input_ids = torch.tensor([prompt + answer[:-1]])
        with torch.inference_mode():
            scores = demo_oracle(input_ids, logits_to_keep=len(answer)).logits[0]
        chosen = scores.gather(1, torch.tensor(answer)[:, None])[:, 0]
        return list((scores.max(dim=-1).values - chosen).tolist())

    return look


def answers_of(
    runner: ModelRunner, prompt_ids: list[list[int]], *, at_once: int
) -> tuple[list[list[int]], LocalEngine]:
    """Run all prompts greedily, at most `at_once` at a time, and leave nothing behind."""
    engine = LocalEngine(runner)
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, stop_token_ids=(EOS,))
    waiting = list(enumerate(prompt_ids))
    answers: list[list[int]] = [[] for _ in prompt_ids]
    index_of = {}
    while waiting or engine.has_unfinished_requests:
        while waiting and engine.scheduler.num_requests < at_once:
            index, ids = waiting.pop(0)
            index_of[engine.submit(ids, sampling)] = index
        for output in engine.step().outputs:
            assert not output.fault
            answers[index_of[output.request_id]] += output.token_ids
    engine.scheduler.check()
    (worker,) = engine.scheduler.workers.values()
    assert worker.pool.num_free == worker.pool.num_blocks
    return answers, engine


def assert_greedy_but_for_near_ties(answers: list[list[int]], prompt_ids: list[list[int]], gaps: Gaps) -> None:
    for index, (answer, prompt) in enumerate(zip(answers, prompt_ids, strict=True)):
        assert EOS not in answer[:-1]
        assert len(answer) == NUM_TOKENS or answer[-1] == EOS
        for place, gap in enumerate(gaps(tuple(prompt), tuple(answer))):
            assert gap < NEAR_TIE, f"prompt {index}, token {place}: {answer[place]} is not the oracle's, gap {gap}"
            if gap:
                print(f"prompt {index} ({len(prompt)} tokens) differs at token {place}: a near-tie of {gap:.2e}")


@pytest.mark.parametrize(
    ("budget", "caching", "at_once"), WAYS if os.environ.get("TOKEN_EXACT_WAYS") else WAYS[:1], ids=str
)
def test_greedy_tokens_are_those_of_transformers(
    demo: Checkpoint,
    load: Callable[..., ModelRunner],
    prompt_ids: list[list[int]],
    gaps: Gaps,
    budget: int,
    caching: bool,
    at_once: int,
) -> None:
    runner = load(
        demo,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_memory_bytes=700 * BYTES_PER_BLOCK,
        max_num_seqs=min(32, budget),
        max_num_batched_tokens=budget,
        enable_prefix_caching=caching,
    )
    answers, engine = answers_of(runner, prompt_ids, at_once=at_once)
    assert (engine.scheduler.num_cached_tokens > 1_000) == caching
    assert_greedy_but_for_near_ties(answers, prompt_ids, gaps)


def test_greedy_tokens_stay_the_same_through_preemption(
    demo: Checkpoint,
    load: Callable[..., ModelRunner],
    prompt_ids: list[list[int]],
    gaps: Gaps,
) -> None:
    prompts_in_need = [ids for ids in prompt_ids if 12 < len(ids) < 300]
    runner = load(
        demo,
        max_model_len=320,
        kv_cache_memory_bytes=24 * BYTES_PER_BLOCK,
        max_num_seqs=32,
        max_num_batched_tokens=128,
    )
    answers, engine = answers_of(runner, prompts_in_need, at_once=32)
    assert engine.scheduler.num_preemptions > 0
    assert_greedy_but_for_near_ties(answers, prompts_in_need, gaps)
