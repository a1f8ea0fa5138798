"""The runner against transformers' greedy generation on the demo model, and its own rules on tiny ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from gpu_worker.model_runner import ModelRunner
from kernels.ops import CPU
from loadtest.transformers_peer import generate
from shared.checkpoint import Checkpoint
from shared.errors import ConfigurationError
from shared.sampling import FinishCode, SamplingParams
from tests.gpu_worker.transcript import GREEDY, Transcript, admit, compute

NUM_STEPS = 8
PROMPTS = [
    [504, 3575, 282, 4649, 314],
    [1, 4093, 198, 1780, 506, 260, 3575, 282, 9088, 30, 2, 198, 1, 520, 9531, 198],
    [(37 * place) % 40_000 + 100 for place in range(100)],
    [2683],
    [(91 * place) % 3_000 + 300 for place in range(33)],
]


@pytest.fixture(scope="module")
def demo_runner(demo: Checkpoint, load: Callable[..., ModelRunner]) -> ModelRunner:
    return load(demo, max_model_len=512)


@pytest.fixture(scope="module")
def expected(demo_oracle: LlamaForCausalLM) -> list[list[int]]:
    """transformers' greedy continuations; the best and the second-best token are never a near-tie in these prompts."""
    return [generate(demo_oracle, [prompt], max_tokens=NUM_STEPS, ignore_eos=True)[0] for prompt in PROMPTS]


GREEDY_WITHOUT_END = SamplingParams(temperature=0.0, max_tokens=1_000, min_tokens=NUM_STEPS, stop_token_ids=(2,))


@pytest.mark.model
class TestDemoModel:
    @pytest.fixture
    def transcript(self, demo_runner: ModelRunner) -> Transcript:
        demo_runner.reset()
        return Transcript(demo_runner)

    def test_whole_prompts_one_at_a_time(self, transcript: Transcript, expected: list[list[int]]) -> None:
        for prompt, answer in zip(PROMPTS, expected, strict=True):
            transcript.tokens.clear()
            admitted = [admit(3, prompt, range(8, 0, -1), sampling=GREEDY_WITHOUT_END)]
            transcript.run(compute({3: len(prompt)}, admitted=admitted))
            transcript.decode([3], NUM_STEPS - 1)
            assert transcript.tokens == {3: answer}
            transcript.run(compute({}, released=[3]))

    def test_chunks_beside_decoding_rows(self, transcript: Transcript, expected: list[list[int]]) -> None:
        """Each prompt comes in chunks of at most 16 and starts to decode while others are still being read."""
        left = [len(prompt) for prompt in PROMPTS]
        admitted = [
            admit(slot, prompt, range(slot * 8, slot * 8 + 8), sampling=GREEDY_WITHOUT_END)
            for slot, prompt in enumerate(PROMPTS)
        ]
        while any(len(transcript.tokens.get(slot, [])) < NUM_STEPS for slot in range(len(PROMPTS))):
            work = {
                slot: min(16, max(1, left[slot]))
                for slot in range(len(PROMPTS))
                if len(transcript.tokens.get(slot, [])) < NUM_STEPS
            }
            output = transcript.run(compute(work, admitted=admitted))
            assert output.num_tokens == sum(work.values())
            admitted = []
            left = [remaining - work.get(slot, 0) for slot, remaining in enumerate(left)]
        assert [transcript.tokens[slot] for slot in range(len(PROMPTS))] == expected

    def test_a_shared_prefix_is_read_from_another_sequences_blocks(
        self, transcript: Transcript, expected: list[list[int]]
    ) -> None:
        prompt = PROMPTS[2]
        transcript.run(compute({0: 100}, admitted=[admit(0, prompt, range(8), sampling=GREEDY_WITHOUT_END)]))
        sharing = admit(1, prompt, [*range(6), 20, 21], sampling=GREEDY_WITHOUT_END, num_computed=96)
        assert transcript.run(compute({0: 1, 1: 4}, admitted=[sharing])).num_tokens == 5
        transcript.decode([0, 1], NUM_STEPS - 1)
        assert transcript.tokens[1] == expected[2]

    def test_a_forks_copied_block_is_its_own(self, transcript: Transcript, expected: list[list[int]]) -> None:
        """Slot 1 forks from slot 0's prompt, whose last block is partly filled, and goes another way."""
        prompt = PROMPTS[2]
        transcript.run(compute({0: 100}, admitted=[admit(0, prompt, range(8), sampling=GREEDY_WITHOUT_END)]))
        fork = admit(1, [*prompt, 1000, 2000], [*range(6), 20, 21], num_computed=100, num_prompt=100)
        transcript.run(compute({0: 1, 1: 2}, admitted=[fork], copies=[(6, 20)]))
        transcript.decode([0, 1], NUM_STEPS - 2)
        assert transcript.tokens[0] == expected[2]
        forked = transcript.tokens[1][:4]
        transcript.run(compute({2: 102}, admitted=[admit(2, [*prompt, 1000, 2000], range(30, 38))]))
        transcript.decode([2], 3)
        assert transcript.tokens[2] == forked

    def test_a_preempted_sequence_goes_on_where_it_was(self, transcript: Transcript, expected: list[list[int]]) -> None:
        prompt = PROMPTS[1]
        transcript.run(compute({0: len(prompt)}, admitted=[admit(0, prompt, range(8), sampling=GREEDY_WITHOUT_END)]))
        transcript.decode([0], 4)
        known = [*prompt, *transcript.tokens[0]]
        again = admit(5, known, range(40, 48), sampling=GREEDY_WITHOUT_END, num_prompt=len(prompt))
        transcript.run(compute({5: len(known)}, released=[0], admitted=[again]))
        transcript.decode([5], NUM_STEPS - 6)
        assert transcript.tokens[0] + transcript.tokens[5] == expected[1]

    def test_sampling_does_not_depend_on_the_batch(self, transcript: Transcript) -> None:
        sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=11, max_tokens=100)
        prompt = PROMPTS[4]
        transcript.run(compute({0: 33}, admitted=[admit(0, prompt, range(8), sampling=sampling)]))
        transcript.decode([0], NUM_STEPS)
        others = [admit(slot, PROMPTS[slot], range(slot * 8, slot * 8 + 8)) for slot in (1, 2)]
        third = admit(3, prompt, range(40, 48), sampling=sampling)
        other_choice = admit(4, prompt, range(50, 58), sampling=sampling, choice=1)
        transcript.run(compute({1: 16, 2: 100, 3: 20, 4: 33}, released=[0], admitted=[*others, third, other_choice]))
        transcript.run(compute({1: 1, 2: 1, 3: 13, 4: 1}))
        transcript.decode([1, 2, 3, 4], NUM_STEPS)
        assert transcript.tokens[3] == transcript.tokens[0]
        assert transcript.tokens[4][:NUM_STEPS] != transcript.tokens[0][:NUM_STEPS]


@pytest.fixture(scope="module")
def tiny(save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]) -> Checkpoint:
    return save_tiny()[0]


def test_capabilities_are_what_was_asked_for_and_fits(tiny: Checkpoint, load: Callable[..., ModelRunner]) -> None:
    ops = replace(CPU, num_efficient_tokens=12)
    found = load(tiny, model_name="served", max_num_seqs=7, block_size=8, max_model_len=50, ops=ops).capabilities
    assert found.num_efficient_tokens == 12
    assert (found.model, found.max_num_seqs, found.block_size, found.max_model_len) == ("served", 7, 8, 50)
    assert found.num_blocks == (64 << 20) // (2 * 2 * 8 * 2 * 16 * 4)
    assert found.kernels
    assert (found.kv_cache_dtype, found.quantization) == ("float32", "none")


def test_the_cache_is_logged_in_blocks(
    tiny: Checkpoint, load: Callable[..., ModelRunner], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        runner = load(tiny)
    assert f"# GPU blocks: 0, # CPU blocks: {runner.capabilities.num_blocks}" in caplog.text


def test_an_unknown_dtype_is_named(tiny: Checkpoint, load: Callable[..., ModelRunner]) -> None:
    with pytest.raises(ConfigurationError, match=r"--dtype 'int3'.*float32, bfloat16, float16"):
        load(tiny, dtype="int3")


def test_a_plan_without_rows_computes_nothing(tiny: Checkpoint, load: Callable[..., ModelRunner]) -> None:
    assert load(tiny).step(compute({})) == ([], 0, ())


def test_the_context_ends_a_sequence_and_a_plan_under_way_does_not_revive_it(
    tiny: Checkpoint, load: Callable[..., ModelRunner]
) -> None:
    transcript = Transcript(load(tiny, max_model_len=20))
    transcript.run(compute({0: 18}, admitted=[admit(0, range(18), [0, 1])]))
    assert transcript.finishes[0] == FinishCode.RUNNING
    transcript.run(compute({0: 1}))
    assert transcript.finishes[0] == FinishCode.LENGTH
    assert transcript.run(compute({0: 1})) == ([], 0, ())
    assert len(transcript.tokens[0]) == 2


def test_a_row_without_finite_logits_fails_alone(tiny: Checkpoint, load: Callable[..., ModelRunner]) -> None:
    runner = load(tiny)
    transcript = Transcript(runner)
    admitted = [admit(0, range(18), [0, 1]), admit(1, range(18), [2, 3])]
    transcript.run(compute({0: 18, 1: 18}, admitted=admitted))
    alone = Transcript(load(tiny))
    alone.run(compute({1: 18}, admitted=admitted[1:]))
    keys, _ = runner._cache.layer(0)
    with torch.inference_mode():
        keys[0] = float("nan")
    output = transcript.run(compute({0: 1, 1: 1}))
    alone.decode([1], 1)
    assert [(row.slot, row.finish) for row in output.rows] == [(0, FinishCode.ERROR), (1, FinishCode.RUNNING)]
    assert output.rows[0].tokens == ()
    assert "no token has a finite score" in output.rows[0].message
    assert transcript.tokens[1] == alone.tokens[1]
    assert transcript.run(compute({0: 1, 1: 1})).num_tokens == 1


def test_reset_forgets_every_row(tiny: Checkpoint, load: Callable[..., ModelRunner]) -> None:
    runner = load(tiny)
    first = Transcript(runner)
    first.run(compute({0: 5}, admitted=[admit(0, range(5), [0], sampling=GREEDY)]))
    runner.reset()
    second = Transcript(runner)
    second.run(compute({0: 5}, admitted=[admit(0, range(5), [1], sampling=GREEDY)]))
    assert first.tokens == second.tokens
