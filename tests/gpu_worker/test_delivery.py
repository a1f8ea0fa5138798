from gpu_worker.delivery import DeliveryBook
from gpu_worker.fake_logprobs import fake_logprobs
from gpu_worker.runner import PromptLogprobs, RowOutput, StepOutput
from shared.ids import BEFORE_FIRST_STEP, Slot, StepId, WorkerId
from shared.messages import Fault, LogprobSpan, TokenBatch
from shared.packing import unpack_u16, unpack_u32
from shared.sampling import FinishCode
from tests.gpu_worker.checked_plans import admitted, plan

ONE, TWO, THREE = (StepId(5, step) for step in (1, 2, 3))


def row(slot: int, *tokens: int, finish: FinishCode = FinishCode.RUNNING, message: str = "") -> RowOutput:
    return RowOutput(Slot(slot), tokens, finish, message)


def output(*rows: RowOutput) -> StepOutput:
    return StepOutput(list(rows), len(rows))


def items(batch: TokenBatch) -> list[tuple[int, int, int, int, int]]:
    return list(
        zip(
            unpack_u16(batch.slots),
            unpack_u32(batch.handles),
            unpack_u32(batch.indices),
            batch.counts,
            batch.finishes,
            strict=True,
        )
    )


def test_each_gateway_gets_its_own_rows() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1], [0], gateway="a"), admitted(1, [1], [1], gateway="b", cached=4)))
    result = book.result(ONE, output(row(1, 8), row(0, 7, finish=FinishCode.STOP)), 55)
    b, a = result.batches
    assert (a.gateway_id, items(a), list(unpack_u32(a.tokens))) == ("a", [(0, 100, 0, 1, 1)], [7])
    assert (b.gateway_id, items(b), list(unpack_u32(b.tokens))) == ("b", [(1, 101, 0, 1, 0)], [8])
    assert list(unpack_u32(b.cached)) == [4]
    assert (b.worker_id, b.step, result.compute_us, result.num_tokens) == ("w", ONE, 55, 2)


def test_indices_count_a_choices_output_and_cached_tokens_are_told_once() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1], [0], cached=3)))
    first = book.result(ONE, output(row(0, 7, 8)), 0).batches[0]
    second = book.result(TWO, output(row(0, 9)), 0).batches[0]
    assert (items(first), list(unpack_u32(first.cached))) == ([(0, 100, 0, 2, 0)], [3])
    assert (items(second), list(unpack_u32(second.cached))) == ([(0, 100, 2, 1, 0)], [])


def test_a_sequence_admitted_with_output_goes_on_counting() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1, 2, 3, 4], [0], num_prompt=1)))
    (batch,) = book.result(ONE, output(row(0, 7)), 0).batches
    assert items(batch) == [(0, 100, 3, 1, 0)]
    assert batch.cached == b""


def test_a_slot_given_to_another_sequence_delivers_to_that_one() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1], [0], gateway="a")))
    book.apply(plan({}, admitted(0, [1], [0], gateway="b"), released=[0]))
    assert [batch.gateway_id for batch in book.result(ONE, output(row(0, 7)), 0).batches] == ["b"]


def test_batches_are_linked_per_gateway_across_steps_without_any() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1], [0], gateway="a"), admitted(1, [1], [1], gateway="b")))
    steps = [
        book.result(ONE, output(row(0, 7), row(1, 7)), 0),
        book.result(TWO, output(row(1, 7)), 0),
        book.result(THREE, output(row(0, 7), row(1, 7)), 0),
    ]
    links = [(batch.gateway_id, batch.step, batch.previous) for result in steps for batch in result.batches]
    assert links == [
        ("a", ONE, BEFORE_FIRST_STEP),
        ("b", ONE, BEFORE_FIRST_STEP),
        ("b", TWO, ONE),
        ("a", THREE, ONE),
        ("b", THREE, TWO),
    ]


def test_a_failed_row_becomes_a_fault_and_no_item() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1], [0]), admitted(1, [1], [1])))
    (batch,) = book.result(ONE, output(row(0, finish=FinishCode.ERROR, message="NaN"), row(1, 7)), 0).batches
    assert batch.faults == (Fault(100, 500, "NaN"),)
    assert items(batch) == [(1, 101, 0, 1, 0)]


def test_a_step_without_output_has_a_result_without_batches() -> None:
    assert DeliveryBook(WorkerId("w")).result(ONE, output(), 3).batches == ()


def test_logprobs_go_to_who_asked_with_the_places_of_their_tokens() -> None:
    book = DeliveryBook(WorkerId("w"))
    book.apply(plan({}, admitted(0, [1, 2, 3], [0], num_prompt=2), admitted(1, [1, 2, 3], [1], gateway="other")))
    told, prompt = fake_logprobs([7, 8], 1, 100), fake_logprobs([2], 0, 100)
    rows = [row(0, 7, 8)._replace(logprobs=told)]
    result = book.result(ONE, StepOutput(rows, 3, [PromptLogprobs(Slot(1), 1, prompt)]), 0)
    one, other = result.batches
    assert one.logprobs == (LogprobSpan(100, 1, told),)
    assert (other.gateway_id, other.prompt_logprobs, other.slots) == ("other", (LogprobSpan(101, 1, prompt),), b"")
    following = book.result(TWO, output(row(1, 4)), 0).batches[0]
    assert (following.previous, following.prompt_logprobs) == (ONE, ())
