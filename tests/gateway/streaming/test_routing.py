"""What is read of the logs, event by event."""

from gateway.streaming.routing import ListWriters, ReadLog, Routing
from shared.ids import BEFORE_FIRST_STEP, GatewayId, Handle, StepId, WorkerId
from shared.messages import TokenBatch
from shared.packing import pack_u32
from shared.sampling import FinishCode

A, B = WorkerId("w-a"), WorkerId("w-b")


def batch(writer: WorkerId, step: int, position: int, *, previous: int | None = None) -> TokenBatch:
    """One token of handle 0: its place is its value."""
    before = step - 1 if previous is None else previous
    return TokenBatch(
        gateway_id=GatewayId("g"), worker_id=writer, step=StepId(1, step),
        previous=StepId(1, before) if before else BEFORE_FIRST_STEP, handles=pack_u32([0]),
        indices=pack_u32([position]), counts=b"\1", finishes=bytes([FinishCode.RUNNING]), tokens=pack_u32([position]),
        cached=pack_u32([0] if position == 0 else []),
    )  # fmt: skip


def routing() -> tuple[Routing, list[int]]:
    made = Routing()
    (choice,) = made.open(1, 0.0)
    return made, choice._tokens


def test_a_batch_that_does_not_follow_is_found_in_the_log() -> None:
    made, tokens = routing()
    made.receive(batch(A, 1, 0), 0.0)
    made.receive(batch(A, 3, 2), 0.0)
    assert made.next_read() == ReadLog(A, StepId(1, 1))
    made.take_log(A, StepId(1, 3), [batch(A, 2, 1), batch(A, 3, 2)], 0.0)
    assert made.next_read() is None
    assert tokens == [0, 1, 2]
    assert made.take_changed() == [Handle(0)]


def test_a_log_is_read_again_for_what_came_after_a_gap_while_it_was_read() -> None:
    made, tokens = routing()
    made.receive(batch(A, 2, 1), 0.0)
    assert made.next_read() == ReadLog(A, BEFORE_FIRST_STEP)
    made.receive(batch(A, 4, 3), 0.0)
    made.take_log(A, StepId(1, 2), [batch(A, 1, 0), batch(A, 2, 1)], 0.0)
    assert made.next_read() == ReadLog(A, StepId(1, 2))
    made.take_log(A, StepId(1, 4), [batch(A, 3, 2), batch(A, 4, 3)], 0.0)
    assert tokens == [0, 1, 2, 3]


def test_a_gap_that_a_round_does_not_fill_is_lost() -> None:
    made, _ = routing()
    (other,) = made.open(1, 0.0)
    made.receive(batch(B, 1, 3), 0.0)
    assert made.next_read() == ListWriters()
    made.take_writers([A, B])
    assert [made.next_read(), made.next_read()] == [ReadLog(A, BEFORE_FIRST_STEP), ReadLog(B, StepId(1, 1))]
    made.take_log(A, BEFORE_FIRST_STEP, [], 0.0)
    made.take_log(B, StepId(1, 1), [], 0.0)
    assert made.next_read() is None
    assert "from 0 on were lost" in made._choices[Handle(0)].fault.message
    assert other.fault is None


def test_a_gap_that_appears_during_a_round_is_not_lost_yet() -> None:
    """B's log is read before B emits position 1 and dies, A's after it has gone on with position 2."""
    made, tokens = routing()
    made.read_all()
    assert made.next_read() == ListWriters()
    made.take_writers([B, A])
    made.next_read()
    made.take_log(B, StepId(1, 1), [batch(B, 1, 0)], 0.0)
    made.next_read()
    made.take_log(A, StepId(1, 1), [batch(A, 1, 2)], 0.0)
    assert made._choices[Handle(0)].fault is None
    assert made.next_read() == ListWriters()
    made.take_writers([B, A])
    assert made.next_read() == ReadLog(B, StepId(1, 1))
    made.take_log(B, StepId(1, 2), [batch(B, 2, 1)], 0.0)
    assert tokens == [0, 1, 2]


def test_reads_that_were_given_up_are_wanted_again_by_the_watch() -> None:
    made, _ = routing()
    made.receive(batch(A, 2, 1), 0.0)
    made.next_read()
    made.give_up()
    assert made.next_read() is None
    made.watch(1.0)
    assert made.next_read() == ListWriters()
