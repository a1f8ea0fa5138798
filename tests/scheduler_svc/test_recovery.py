"""What a leader learns of earlier ones: from logs that may have lost their ends, and from what gateways say."""

import msgspec
import pytest

from scheduler_svc.leadership.recovery import CommittedOutputs
from scheduler_svc.scheduling.scheduler import Progress
from shared.ids import BEFORE_FIRST_STEP, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.kept_outputs import OutputPart, addresses_of
from shared.messages import Fault, StepResult, Submit, TokenBatch, Told
from shared.packing import pack_u32
from shared.sampling import FinishCode, SamplingParams
from tests.scheduler_svc.simulated_pool import SimulatedPool

GATEWAY = GatewayId("g")


def log(tokens: dict[int, int], *, ends: bool = False, faults: tuple[Fault, ...] = ()) -> CommittedOutputs:
    """Of handle 7: tokens by their places, the last of which may end it."""
    outputs = CommittedOutputs()
    for place, token in tokens.items():
        finish = FinishCode.STOP if ends and place == max(tokens) else FinishCode.RUNNING
        batch = TokenBatch(
            gateway_id=GATEWAY, worker_id=WorkerId("w"), step=StepId(1, place + 1), previous=BEFORE_FIRST_STEP,
            handles=pack_u32([7]), indices=pack_u32([place]), counts=b"\1", finishes=bytes([finish]),
            tokens=pack_u32([token]),
        )  # fmt: skip
        outputs.add([StepResult((batch,))])
    outputs.add([StepResult((TokenBatch(GATEWAY, WorkerId("s1"), StepId(1, 1), BEFORE_FIRST_STEP, faults=faults),))])
    return outputs


def submit(told: list[int] | None = None, *, is_finished: bool = False) -> Submit:
    return Submit(
        request_id=RequestId("r"), gateway_id=GATEWAY, handle=Handle(7), prompt=pack_u32([1, 2]),
        sampling=SamplingParams(), arrived_ms=0, told=() if told is None else (Told(pack_u32(told), is_finished),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("logged", "told", "expected"),
    [
        ({0: 10, 1: 11}, None, (10, 11)),
        ({0: 10, 1: 11}, [10], (10, 11)),
        ({0: 10, 1: 11}, [10, 11, 12], (10, 11, 12)),
        ({0: 10, 2: 12}, None, (10,)),
        ({0: 10, 2: 12}, [10, 11], (10, 11, 12)),
        ({0: 10, 1: 21, 2: 22}, [10, 11], (10, 11)),
        ({}, [10, 11], (10, 11)),
    ],
    ids=["log", "log is ahead", "gateway is ahead", "hole", "hole is filled", "log says otherwise", "no log"],
)
def test_a_choice_goes_on_after_what_logs_and_gateway_know(
    logged: dict[int, int], told: list[int] | None, expected: tuple[int, ...]
) -> None:
    assert log(logged).progress_of(submit(told)) == {0: Progress(expected, is_finished=False)}


@pytest.mark.parametrize(
    ("logged", "kept", "told", "expected", "num_kept"),
    [
        ({2: 12, 3: 13}, [10, 11, 12], None, (10, 11, 12, 13), 3),
        ({}, [10, 11], None, (10, 11), 2),
        ({3: 13}, [10, 11], None, (10, 11), 2),
        ({3: 13}, [10, 11], [10, 11, 12], (10, 11, 12, 13), 2),
        ({2: 12}, [10, 11], [20], (20,), 0),
        ({1: 21, 2: 22}, [10, 11], [10], (10, 21, 22), 0),
    ],
    ids=["log goes on", "no log", "hole", "hole is filled", "gateway says otherwise", "log says otherwise"],
)
def test_what_was_kept_counts_where_the_logs_begin_later(
    logged: dict[int, int], kept: list[int], told: list[int] | None, expected: tuple[int, ...], num_kept: int
) -> None:
    progress = log(logged).progress_of(submit(told), [pack_u32(kept)])
    assert progress == {0: Progress(expected, num_kept_tokens=num_kept)}


def test_an_end_is_kept_too() -> None:
    request = msgspec.structs.replace(submit(), sampling=SamplingParams(n=3))
    first, second, third = addresses_of(request)
    parts = (
        OutputPart.of(first, 0, [10], is_ended=True),
        OutputPart.of(second, 0, [20], is_ended=False),
        OutputPart.of(third, 0, [], is_ended=True),
    )
    assert CommittedOutputs().progress_of(request, [part.data for part in parts]) == {
        0: Progress((10,), is_finished=True, num_kept_tokens=1),
        1: Progress((20,), num_kept_tokens=1),
        2: Progress((), is_finished=True),
    }


def test_an_end_is_one_only_if_all_before_it_is_known() -> None:
    ended = log({0: 10, 2: 12}, ends=True)
    assert ended.progress_of(submit([10, 11])) == {0: Progress((10, 11, 12), is_finished=True)}
    assert ended.progress_of(submit()) == {0: Progress((10,), is_finished=False)}
    assert log({}).progress_of(submit([10], is_finished=True)) == {0: Progress((10,), is_finished=True)}
    assert log({}, faults=(Fault(Handle(7), 400, "no"),)).progress_of(submit())[0].is_finished


@pytest.mark.parametrize("num_missing", [0, 1, 2, 5])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_request_that_a_gateway_submits_again_tells_nothing_twice_and_leaves_out_nothing(
    num_missing: int, num_choices: int
) -> None:
    """The leader has heard of fewer tokens than the client: results were lost between them."""
    pool = SimulatedPool()
    worker = pool.add_worker()
    request = pool.submit([10, 11, 12], max_tokens=12, n=num_choices)
    for _ in range(6):
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    pool.plan(worker), pool.plan(worker)
    told = {choice: Progress(tuple(pool.expected(request, choice)[: len(pool.output(request, choice)) + num_missing]))
            for choice in range(num_choices)}  # fmt: skip
    pool.core.submit(pool.submitted[request], entry="again", progress=told)
    pool.core.check()
    assert pool.core.take_outcomes().finished == [request]
    pool.finished.append(request)
    for choice, progress in told.items():
        pool.outputs[request, choice] = list(progress.output)
    num_told = {choice: len(progress.output) for choice, progress in told.items()}
    while pool.execute(worker):  # what was under way for the old sequences comes to nothing, or was told
        step, result = pool.workers[worker].results.popleft()
        if not num_missing:
            pool._receive(result)
        pool.core.complete(worker, step, result)
    assert num_missing == 0 or all(len(pool.output(request, choice)) == num_told[choice] for choice in num_told)
    pool.run()
    assert pool.finished == [request, "again"]
    assert all(pool.output(request, choice) == pool.expected(request, choice) for choice in range(num_choices))
    pool.core.check()


def test_choices_that_have_ended_for_the_client_are_not_computed_again() -> None:
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit([10, 11, 12], max_tokens=5, n=2)
    again = {0: Progress((1, 2), is_finished=True), 1: Progress((1, 2, 3, 4, 5), is_finished=True)}
    pool.core.submit(pool.submitted[request], entry="again", progress=again)
    assert pool.core.take_outcomes().finished == [request, "again"]
    assert pool.core.num_requests == 0
    pool.core.check()
