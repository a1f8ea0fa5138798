import pytest

from gpu_worker.fake_runner import FIRST_FAKE_TOKEN, FakeRunner, fake_token
from kernels.roofline import StepLoad
from shared.errors import PlanError
from shared.ids import RequestId
from shared.messages import StepPlan
from shared.sampling import FinishCode, SamplingParams
from tests.gpu_worker.checked_plans import CAPABILITIES, admitted, plan

VOCAB = 1000
R = RequestId("r")


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner(CAPABILITIES, vocab_size=VOCAB)


def test_tokens_are_a_function_of_request_choice_and_index() -> None:
    tokens = {fake_token(RequestId(r), c, i, 10**6) for r in ("a", "b") for c in (0, 1) for i in range(50)}
    assert len(tokens) > 195
    assert all(FIRST_FAKE_TOKEN <= token < 10**6 for token in tokens)
    assert fake_token(RequestId("a"), 0, 0, 32_000) == 30_155


def test_a_sequence_runs_to_max_tokens_and_then_gets_nothing(runner: FakeRunner) -> None:
    rows = runner.step(plan({0: 3}, admitted(0, [1, 2, 3], [5, 6], sampling=SamplingParams(max_tokens=3)))).rows
    for _ in range(2):
        rows += runner.step(plan({0: 1})).rows
    assert [row.tokens[0] for row in rows] == [fake_token(R, 0, i, VOCAB) for i in range(3)]
    assert [row.finish for row in rows] == [FinishCode.RUNNING, FinishCode.RUNNING, FinishCode.LENGTH]
    assert runner.step(plan({0: 1})) == ([], 0, [])


def test_a_chunk_that_ends_within_the_prompt_gets_no_token(runner: FakeRunner) -> None:
    assert runner.step(plan({0: 2}, admitted(0, [1, 2, 3], [5]))).rows == []
    assert len(runner.step(plan({0: 1})).rows) == 1


def test_a_sequence_admitted_with_output_goes_on_where_it_was(runner: FakeRunner) -> None:
    output = [fake_token(R, 0, i, VOCAB) for i in range(2)]
    (row,) = runner.step(plan({0: 5}, admitted(0, [1, 2, 3, *output], [5, 6], num_prompt=3))).rows
    assert row.tokens == (fake_token(R, 0, 2, VOCAB),)


def test_the_context_limit_ends_a_sequence() -> None:
    runner = FakeRunner(CAPABILITIES)
    sampling = SamplingParams(max_tokens=100)
    runner.step(plan({0: 16}, admitted(0, range(31), range(8), sampling=sampling)))
    (row,) = runner.step(plan({0: 15})).rows
    assert row.finish is FinishCode.LENGTH


def test_the_length_rule_ends_only_sequences_that_have_stop_tokens() -> None:
    runner = FakeRunner(CAPABILITIES, length=lambda _request, _choice: 1)
    stopping = admitted(0, [1], [0], sampling=SamplingParams(max_tokens=9, stop_token_ids=(2, 3)))
    rows = runner.step(plan({0: 1, 1: 1}, stopping, admitted(1, [1], [1]))).rows
    assert rows[0][1:3] == ((2,), FinishCode.STOP)
    assert rows[1].finish is FinishCode.RUNNING


def test_a_computed_full_block_may_be_shared(runner: FakeRunner) -> None:
    runner.step(plan({0: 6}, admitted(0, [1, 2, 3, 4, 5, 6], [0, 1])))
    (row,) = runner.step(plan({1: 1}, admitted(1, [1, 2, 3, 4, 9], [0, 2], computed=4))).rows
    assert row.slot == 1


def test_a_fork_copies_the_partial_block(runner: FakeRunner) -> None:
    runner.step(plan({0: 6}, admitted(0, [1, 2, 3, 4, 5, 6], [0, 1])))
    fork = admitted(1, [1, 2, 3, 4, 5, 6], [0, 2], choice=1, computed=5)
    rows = runner.step(plan({0: 1, 1: 1}, fork, copies=[1, 2])).rows
    assert rows[1].tokens == (fake_token(R, 1, 0, VOCAB),)


def test_a_released_slot_and_its_blocks_can_be_given_out_by_the_same_plan(runner: FakeRunner) -> None:
    runner.step(plan({0: 3}, admitted(0, [1, 2, 3], [0])))
    (row,) = runner.step(plan({0: 2}, admitted(0, [7, 8], [0], request_id="s"), released=[0])).rows
    assert row.tokens == (fake_token(RequestId("s"), 0, 0, VOCAB),)


def test_reset_forgets_rows_but_not_what_blocks_hold(runner: FakeRunner) -> None:
    runner.step(plan({0: 4}, admitted(0, [1, 2, 3, 4], [0])))
    runner.reset()
    runner.step(plan({0: 1}, admitted(0, [1, 2, 3, 4, 5], [0, 1], computed=4)))
    with pytest.raises(PlanError, match="does not hold"):
        runner.step(plan({1: 1}, admitted(1, [1, 2, 3, 5, 5], [0, 2], computed=4)))


def test_the_load_is_summed_over_the_rows_of_the_step(runner: FakeRunner) -> None:
    runner.step(plan({0: 3, 1: 2}, admitted(0, [1, 2, 3], [0]), admitted(1, [1, 2, 3], [1])))
    assert runner.load == StepLoad(num_tokens=5, num_sampled=1, num_context_tokens=5, num_pairs=6 + 3)


FIRST = plan({0: 5}, admitted(0, [1, 2, 3, 4, 5], [0, 1]))


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (plan({1: 2}, admitted(1, [1, 2], [16])), "there are only 16"),
        (plan({4: 2}, admitted(4, [1, 2], [3])), "there are only 4"),
        (plan({0: 2}, admitted(0, [1, 2], [3])), "has it"),
        (plan({1: 1}), "it is free"),
        (plan(released=[1]), "it is free"),
        (plan(appended=[(1, 3)]), "it is free"),
        (plan({0: 2}), "computes 2 of 1"),
        (plan({0: 0}), "computes 0 of 1"),
        (plan({1: 5}, admitted(1, range(5), [3])), "too few for 5 tokens"),
        (plan({1: 17}, admitted(1, range(20), range(3, 8))), "exceed max_num_batched_tokens"),
        (plan({1: 1}, admitted(1, range(33), range(3, 12))), "has 33 tokens"),
        (plan({1: 1}, admitted(1, [1, 2], [3], computed=2)), "2 of them computed"),
        (plan({1: 1}, admitted(1, [1, 2], [3, 3])), "twice"),
        (plan({0: 1}, appended=[(0, block) for block in range(2, 9)]), "more than max_model_len"),
        (plan({1: 1}, admitted(1, [1, 2, 3, 4, 6], [0, 1], computed=4)), "another row holds too"),
        (plan({1: 1}, admitted(1, [1, 2, 3, 9, 6], [0, 2], computed=4)), "does not hold its position 3"),
        (plan({1: 1}, admitted(1, [9, 2, 3, 4, 6], [0, 2], computed=4)), "does not hold its position 0"),
        (plan({1: 1}, admitted(1, [1, 2, 3, 4, 5, 6], [0, 2], computed=5)), "block 2, which does not hold"),
        (plan({0: 1}, copies=[0, 1]), "does not hold its position 4"),
        (plan(copies=[1, 2]), "which 0 rows hold"),
        (plan({1: 1}, admitted(1, [1], [3]), copies=[0, 3, 1, 3]), "depend on their order"),
        (plan({1: 1}, admitted(1, [1, 2], [3], num_prompt=1, sampling=SamplingParams(max_tokens=1))), "is complete"),
        (StepPlan(slots=b"\0\0\0\0", num_tokens=b"\1\0\0\0"), "1 token counts for 2 rows"),
        (StepPlan(appended_slots=b"\0\0"), "0 blocks are appended to 1 rows"),
    ],
)
def test_a_plan_that_contradicts_the_rows_is_refused(runner: FakeRunner, second: StepPlan, complaint: str) -> None:
    runner.step(FIRST)
    with pytest.raises(PlanError, match=complaint):
        runner.step(second)
