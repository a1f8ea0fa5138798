import numpy as np
import pytest
import torch

from gpu_worker.batch_state import BatchState
from gpu_worker.step_input import StepInput
from shared.errors import PlanError
from shared.messages import StepPlan
from shared.packing import pack_u16, pack_u32
from shared.sampling import FinishCode, SamplingParams
from tests.gpu_worker.transcript import admit, compute

_CPU = torch.device("cpu")


@pytest.fixture
def state() -> BatchState:
    return BatchState(
        max_num_seqs=4, max_model_len=32, max_num_batched_tokens=40, block_size=4, num_blocks=20, vocab_size=1000
    )


def step(state: BatchState, plan: StepPlan, tokens: dict[int, int] | None = None) -> None:
    """Apply a plan, pretend to compute it, and commit these tokens."""
    work = state.apply(plan)
    state.advance(work)
    for slot, token in (tokens or {}).items():
        state.commit(slot, token)
    state.check()


def test_a_row_grows_by_chunks_blocks_and_tokens(state: BatchState) -> None:
    step(state, compute({2: 4}, admitted=[admit(2, range(10, 17), [5])]))
    step(state, compute({2: 3}, appended=[(2, 9)]), {2: 77})
    assert state.tokens[2, :8].tolist() == [*range(10, 17), 77]
    assert state.num_computed[2] == 7
    assert state.block_tables[2, :2].tolist() == [5, 9]
    assert state.num_output_tokens(2) == 1


def test_a_slot_is_released_before_it_is_given_again(state: BatchState) -> None:
    step(state, compute({0: 3}, admitted=[admit(0, range(3), [1])]), {0: 4})
    step(state, compute({0: 2}, released=[0], admitted=[admit(0, [8, 9], [2])]))
    assert state.num_tokens[0] == 2
    assert state.block_tables[0, 0] == 2


def test_output_told_before_counts_towards_max_tokens(state: BatchState) -> None:
    sampling = SamplingParams(max_tokens=3)
    step(state, compute({0: 4}, admitted=[admit(0, range(4), [1], num_prompt=2, sampling=sampling)]))
    assert state.commit(0, 9) == FinishCode.LENGTH


def test_a_stop_token_ends_a_row_even_where_its_length_does_too(state: BatchState) -> None:
    sampling = SamplingParams(max_tokens=2, stop_token_ids=(7, 8))
    step(state, compute({0: 2}, admitted=[admit(0, range(2), [1], sampling=sampling)]))
    assert state.commit(0, 6) == FinishCode.RUNNING
    assert state.commit(0, 8) == FinishCode.STOP


def test_a_finished_row_computes_nothing_whatever_a_plan_under_way_says(state: BatchState) -> None:
    step(state, compute({0: 4}, admitted=[admit(0, range(4), [1], sampling=SamplingParams(max_tokens=1))]), {0: 5})
    work = state.apply(compute({0: 1}, appended=[(0, 3)]))
    assert work.slots.tolist() == []


def test_the_seed_is_the_choices_own(state: BatchState) -> None:
    sampling = SamplingParams(seed=2**64 - 1)
    state.apply(compute({}, admitted=[admit(slot, [1], [slot], choice=slot, sampling=sampling) for slot in (0, 1)]))
    assert state.seeds[:2].tolist() == [2**64 - 1, 0]


def test_clear_frees_every_row(state: BatchState) -> None:
    step(state, compute({0: 1, 3: 1}, admitted=[admit(0, [1], [1]), admit(3, [1], [2])]))
    state.clear()
    state.check()
    step(state, compute({3: 1}, admitted=[admit(3, [1], [2])]))


KNOWN = admit(0, range(5), [1, 2])

CONTRADICTIONS = {
    "slot not free": (compute({}, admitted=[KNOWN, admit(0, [1], [3])]), "request-0 is given slot 0"),
    "no such slot": (compute({}, admitted=[admit(4, [1], [3])]), "slot 4"),
    "release of a free slot": (compute({}, released=[1]), "slot 1 holds no sequence"),
    "computing a free slot": (compute({1: 1}), "slot 1 holds no sequence"),
    "block for a free slot": (compute({}, appended=[(2, 3)]), "slot 2 holds no sequence"),
    "more tokens than known": (compute({0: 6}, admitted=[KNOWN]), "computes 6 tokens after 0, but knows 5"),
    "no tokens": (compute({0: 0}, admitted=[KNOWN]), "computes 0 tokens"),
    "blocks too few": (compute({0: 5}, admitted=[admit(0, range(5), [1])]), "has blocks for 4"),
    "unknown block": (compute({}, admitted=[admit(0, range(5), [1, 20])]), "block 20 of a cache of 20"),
    "unknown block appended": (compute({}, admitted=[KNOWN], appended=[(0, 99)]), "block 99"),
    "unknown block copied": (compute({}, copies=[(0, 20)]), "block 20"),
    "table too long": (compute({}, admitted=[admit(0, [1], range(9))]), "has 9 blocks"),
    "table grows too long": (compute({}, admitted=[admit(0, [1], range(8))], appended=[(0, 9)]), "block 9 of 8"),
    "no tokens admitted": (compute({}, admitted=[admit(0, [], [1])]), "has 0 tokens"),
    "no room for output": (compute({}, admitted=[admit(0, range(32), range(8))]), "at most 32"),
    "all computed": (compute({}, admitted=[admit(0, range(5), [1, 2], num_computed=5)]), "computed 5 of 5"),
    "computed without block": (compute({}, admitted=[admit(0, range(9), [1], num_computed=8)]), "has 1 blocks"),
    "foreign token": (compute({}, admitted=[admit(0, [1000], [1])]), "token 1000 of 1000"),
    "over budget": (
        compute({0: 31, 1: 10}, admitted=[admit(0, range(31), range(8)), admit(1, range(10), range(8, 12))]),
        "41 tokens in one step, at most 40",
    ),
    "row twice": (
        StepPlan(admitted=(KNOWN,), slots=pack_u16([0, 0]), num_tokens=pack_u32([1, 1])),
        "2 rows, 1 of them different",
    ),
    "counts missing": (StepPlan(admitted=(KNOWN,), slots=pack_u16([0])), "0 counts"),
    "blocks missing": (StepPlan(admitted=(KNOWN,), appended_slots=pack_u16([0])), "1 rows get 0 blocks"),
}


@pytest.mark.parametrize(("plan", "reason"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_refused(state: BatchState, plan: StepPlan, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        state.apply(plan)


def test_step_input_packs_chunks_and_decoding_rows(state: BatchState) -> None:
    admitted = [admit(0, range(100, 106), [3, 4]), admit(2, range(200, 209), [7, 8, 9], num_computed=4)]
    step(state, compute({0: 6}, admitted=admitted), {0: 50})
    found = StepInput.build(state, state.apply(compute({2: 3, 0: 1})))
    assert found.token_ids.tolist() == [204, 205, 206, 50]
    assert found.positions.tolist() == [4, 5, 6, 6]
    assert found.slots.tolist() == [32, 33, 34, 18]
    assert found.batch.query_start.tolist() == [0, 3, 4]
    assert found.batch.context_lens.tolist() == [7, 7]
    assert found.batch.block_tables.tolist() == [[7, 8], [3, 4]]
    assert found.sampled_rows.tolist() == [3]
    assert np.array_equal(found.sampled_slots, [0])
