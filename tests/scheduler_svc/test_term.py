"""One term of leadership, event by event: what it wants done, and in which order."""

import msgspec

from scheduler_svc.leadership.effects import (
    Announce,
    Bury,
    Effect,
    Emit,
    Finish,
    Follow,
    Keep,
    Seal,
    SendPlan,
    TakeOver,
)
from scheduler_svc.leadership.failure_detector import CONFIRMATION_S
from scheduler_svc.leadership.reunion import REUNION_S
from scheduler_svc.leadership.term import Term
from scheduler_svc.settings import SchedulerSettings
from shared.bus import LIVENESS_TTL_S, Delivery, LoggedResult
from shared.dead_letters import Case, Cause
from shared.held_lease import HeldLease, Sighting
from shared.ids import BEFORE_FIRST_STEP, SEAL_STEP, Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.messages import (
    Cancel,
    Inbound,
    StepResult,
    Submit,
    TokenBatch,
    WorkerBye,
    WorkerHello,
    WorkerStatus,
    encode,
)
from shared.packing import pack_u16, pack_u32, unpack_u32
from shared.sampling import FinishCode, SamplingParams
from tests.scheduler_svc.simulated_pool import capabilities

SETTINGS = SchedulerSettings(redis_url="", worker_timeout_s=60, gateway_grace_s=10)
GATEWAY, OLD, NEW = GatewayId("g"), WorkerId("w-old"), WorkerId("w-new")


def submit(request: str = "r", *, handle: int = 0, prompt: tuple[int, ...] = (1, 2, 3)) -> Submit:
    sampling = SamplingParams(max_tokens=8)
    return Submit(
        request_id=RequestId(request), gateway_id=GATEWAY, handle=Handle(handle), prompt=pack_u32(prompt),
        sampling=sampling, arrived_ms=0,
    )  # fmt: skip


def tokens(
    worker: WorkerId, step: StepId, *values: int, at: int = 0, slot: int = 0, ends: bool = False
) -> LoggedResult:
    finish = FinishCode.STOP if ends else FinishCode.RUNNING
    batch = TokenBatch(
        gateway_id=GATEWAY, worker_id=worker, step=step, previous=BEFORE_FIRST_STEP, slots=pack_u16([slot]),
        handles=pack_u32([0]), indices=pack_u32([at]), counts=bytes([len(values)]), finishes=bytes([finish]),
        tokens=pack_u32(values),
    )  # fmt: skip
    return LoggedResult(step, StepResult((batch,)))


def seal(epoch: int) -> LoggedResult:
    return LoggedResult(StepId(epoch, SEAL_STEP), None)


def hello(worker: WorkerId, *, formerly: str = "") -> WorkerHello:
    return WorkerHello(worker_id=worker, capabilities=capabilities(), formerly=WorkerId(formerly))


def status(worker: WorkerId) -> WorkerStatus:
    return WorkerStatus(worker_id=worker, capabilities=capabilities(), last_step=BEFORE_FIRST_STEP)


class Told:
    """A term, what it is told, and what it wants."""

    def __init__(self, *writers: WorkerId) -> None:
        self.now_s = 0.0
        self.term = Term(Epoch(7), SETTINGS, writers)

    @classmethod
    def leading(cls, *messages: Inbound) -> "Told":
        told = cls()
        assert told.wants() == [TakeOver()]
        told.term.take_over([])
        assert told.wants() == []
        told.hears(*messages)
        return told

    def hears(self, *messages: Inbound) -> None:
        deliveries = [Delivery(f"entry of {type(message).__name__}", message) for message in messages]
        self.term.receive(deliveries, now_s=self.now_s)

    def sees(self, *workers: WorkerId, gateways: tuple[GatewayId, ...] = (GATEWAY,)) -> None:
        self.term.look({worker: status(worker) for worker in workers}, set(gateways), now_s=self.now_s)

    def wants(self, *kinds: type[Effect]) -> list[Effect]:
        effects = list(self.term.effects(now_s=self.now_s))
        self.term.check()
        return [effect for effect in effects if not kinds or isinstance(effect, kinds)]


def test_everyone_of_the_past_is_sealed_and_read_to_the_seal_before_anything_goes_on() -> None:
    faults = WorkerId("s3")
    told = Told(OLD, faults)
    assert told.wants() == [Seal(OLD), Seal(faults), TakeOver()]
    told.term.take_over([Delivery("1", submit()), Delivery("2", hello(OLD)), Delivery("3", hello(NEW))])
    assert told.wants() == [Follow(OLD), Follow(faults)]
    told.term.read(OLD, [tokens(OLD, StepId(3, 1), 70, 71)])
    told.term.read(faults, [seal(7)])
    assert told.wants() == []
    told.sees()
    told.term.read(OLD, [seal(5), seal(7)])
    joins, _, plan, _, finish = told.wants()
    assert (joins, finish) == (Follow(NEW), Finish(["2", "3"]))
    assert (plan.worker, plan.step) == (NEW, StepId(7, 1))
    assert list(unpack_u32(plan.plan.admitted[0].tokens)) == [1, 2, 3, 70, 71]


def test_nothing_is_planned_before_those_who_live_are_back_with_their_caches() -> None:
    other = WorkerId("w-other")
    told = Told(OLD, other)
    told.term.take_over([Delivery("1", submit())])
    told.sees(OLD, other)
    told.term.read(OLD, [seal(7)])
    told.term.read(other, [seal(7)])
    told.hears(hello(NEW, formerly=OLD))
    assert told.wants(SendPlan) == []
    assert set(told.term.workers()) == {NEW, other}
    told.hears(hello(WorkerId("w-again"), formerly=other))
    assert told.wants(SendPlan)


def test_those_who_take_too_long_are_not_waited_for() -> None:
    told = awaiting_the_old_one()
    told.now_s = REUNION_S
    assert told.wants(SendPlan)


def test_those_who_die_meanwhile_are_not_waited_for() -> None:
    told = awaiting_the_old_one()
    for is_connected in (True, False, False):
        assert told.wants(SendPlan) == []
        told.now_s += CONFIRMATION_S * 1.1
        told.term.sight(Sighting("a", [HeldLease(OLD, "c", is_connected)]), now_s=told.now_s)
    assert told.now_s < REUNION_S
    assert told.wants(SendPlan)


def awaiting_the_old_one() -> Told:
    told = Told(OLD)
    told.term.take_over([Delivery("1", submit()), Delivery("2", hello(NEW))])
    told.sees(OLD)
    told.term.read(OLD, [seal(7)])
    assert told.wants(SendPlan) == []
    return told


def test_a_worker_whose_hello_was_lost_joins_by_its_second_heartbeat() -> None:
    told = Told.leading(submit())
    told.sees(NEW)
    assert told.wants(SendPlan) == []
    told.sees(NEW)
    assert told.wants(SendPlan)


def test_what_comes_while_the_past_is_read_waits_for_it() -> None:
    told = Told(OLD)
    told.term.take_over([Delivery("1", submit())])
    told.hears(Cancel(request_id=RequestId("r"), reason="client"))
    assert told.wants(Finish) == []
    told.term.read(OLD, [tokens(OLD, StepId(3, 1), 70), seal(7)])
    assert told.wants(Finish) == [Finish(["1", "entry of Cancel"], outputs=[OutputAddress(GATEWAY, Handle(0))])]


def test_no_log_is_read_where_no_request_is_unfinished() -> None:
    told = Told(OLD)
    told.term.take_over([Delivery("1", hello(NEW))])
    assert told.wants(Follow, Finish) == [Follow(NEW), Finish(["1"])]


def test_logs_are_read_a_few_at_a_time() -> None:
    writers = [WorkerId(f"w{number}") for number in range(20)]
    told, read = Told(*writers), []
    told.term.take_over([Delivery("1", submit())])
    while follows := told.wants(Follow):
        assert len(follows) <= 8
        read += [follow.writer for follow in follows]
        for follow in follows:
            told.term.read(follow.writer, [seal(7)])
    assert read == writers
    told.sees()
    assert told.wants(Announce)


def test_a_request_whose_end_was_told_under_the_old_leader_is_only_finished() -> None:
    told = Told(OLD)
    told.term.take_over([Delivery("1", submit())])
    told.term.read(OLD, [tokens(OLD, StepId(3, 1), 70, ends=True), seal(7)])
    assert told.wants(SendPlan, Finish) == [Finish(["1"])]


def test_nobody_is_told_of_a_leader_that_has_not_taken_over() -> None:
    told = Told(OLD)
    told.term.take_over([Delivery("1", submit())])
    told.sees()
    assert told.wants(Announce) == []
    told.term.read(OLD, [seal(7)])
    told.wants()
    told.sees()
    (announce,) = told.wants(Announce)
    assert announce.status.epoch == 7


def test_sequences_move_when_the_log_of_a_dead_worker_has_been_read_to_the_seal() -> None:
    told = Told.leading(hello(OLD), submit())
    assert [effect.worker for effect in told.wants(SendPlan)] == [OLD, OLD]
    told.hears(hello(NEW), WorkerBye(worker_id=OLD))
    assert told.wants(SendPlan, Seal) == [Seal(OLD)]
    told.term.read(OLD, [tokens(OLD, StepId(7, 1), 70)])
    assert told.wants(SendPlan) == []
    told.term.read(OLD, [seal(7)])
    first, *_ = told.wants(SendPlan)
    assert first.worker == NEW
    assert list(unpack_u32(first.plan.admitted[0].tokens)) == [1, 2, 3, 70]


def test_a_worker_that_was_declared_dead_is_not_welcomed_again() -> None:
    told = Told.leading(hello(OLD), WorkerBye(worker_id=OLD))
    told.wants()
    told.hears(hello(OLD))
    told.sees(OLD)
    assert told.wants(Follow, Seal) == []


def test_a_worker_without_heartbeat_is_sealed_and_one_that_has_just_joined_is_not() -> None:
    told = Told.leading(hello(OLD))
    told.wants()
    told.now_s = LIVENESS_TTL_S + 1
    told.hears(hello(NEW))
    told.sees()
    assert told.wants(Seal) == [Seal(OLD)]


def test_a_worker_whose_connection_is_closed_is_sealed_long_before_its_lease_runs_out() -> None:
    told = Told.leading(hello(OLD), hello(NEW))
    told.wants()
    for seen, after_s in ((True, 0.0), (False, 0.1), (False, CONFIRMATION_S)):
        told.now_s += after_s
        told.sees(OLD, NEW)
        assert told.wants(Seal) == []
        leases = (HeldLease(OLD, "c1", is_connected=seen), HeldLease(NEW, "c2", is_connected=True))
        told.term.sight(Sighting("v", leases), now_s=told.now_s)
    assert told.wants(Seal) == [Seal(OLD)]
    assert told.now_s < LIVENESS_TTL_S
    assert told.term.workers() == [NEW]
    told.sees(OLD, NEW)  # its last heartbeat still stands there
    assert told.term.workers() == [NEW]


def test_a_worker_that_answers_what_it_was_not_asked_is_sealed() -> None:
    told = Told.leading(hello(OLD), submit())
    told.wants()
    told.term.read(OLD, [tokens(OLD, StepId(7, 1), 70, slot=5)])
    assert told.wants(Seal) == [Seal(OLD)]


def test_a_fault_is_in_the_log_before_its_request_is_finished() -> None:
    told = Told.leading(hello(NEW), submit(prompt=(7,) * 200))
    emit, finish = told.wants(Emit, Finish)
    assert (emit.writer, emit.step) == (WorkerId("s7"), StepId(7, 1))
    assert "200 tokens" in emit.result.batches[0].faults[0].message
    assert sorted(finish.entries) == ["entry of Submit", "entry of WorkerHello"]


def test_a_cancel_ends_its_request_and_itself() -> None:
    told = Told.leading(hello(NEW), submit())
    told.wants()
    told.hears(Cancel(request_id=RequestId("r"), reason="disconnect"))
    assert told.wants(Finish) == [Finish(["entry of Submit", "entry of Cancel"])]


def test_requests_of_a_gateway_that_is_gone_are_cancelled_after_the_grace() -> None:
    told = Told.leading(hello(NEW), submit())
    for told.now_s, finished in [(0.0, False), (9.0, False), (11.0, True)]:
        told.sees(NEW, gateways=())
        wanted = told.wants(Emit, Finish)
        assert bool([f for f in wanted if isinstance(f, Finish) and "entry of Submit" in f.entries]) == finished
    (fault,) = wanted[0].result.batches[0].faults
    assert (fault.handle, fault.status) == (0, 503), "a gateway that was only stopped must end its client's wait"


def test_an_unreadable_message_is_a_dead_letter_and_its_sender_is_told() -> None:
    told = Told.leading()
    newer = b"\x09" + encode(submit())[1:]
    told.term.receive([Delivery("1", None, "version 9", newer), Delivery("2", None, "nonsense", b"\x01?")], now_s=0.0)
    first, second, emit, finish = told.wants()
    assert isinstance(first, Bury)
    assert (first.entry, first.letter.message, first.letter.gateway_id) == ("1", newer, GATEWAY)
    assert isinstance(second, Bury)
    assert (second.entry, second.letter.cause, second.letter.gateway_id) == ("2", Cause.UNREADABLE, "")
    assert isinstance(emit, Emit)
    (fault,) = [fault for batch in emit.result.batches for fault in batch.faults]
    assert (fault.handle, fault.status, fault.code) == (0, 400, "unreadable_message")
    assert finish == Finish(["1", "2"])


def test_an_unreadable_result_ends_its_worker_and_nothing_behind_it_counts() -> None:
    told = Told.leading(hello(NEW), submit())
    (first, _) = [effect.step for effect in told.wants(SendPlan) if isinstance(effect, SendPlan)]
    told.term.read(NEW, [LoggedResult(first, None, "no result", b"?"), tokens(NEW, first.next(), 5)])
    bury, sealed = told.wants(Bury, Seal)
    assert isinstance(bury, Bury)
    assert (bury.letter.message, bury.letter.source) == (b"?", f"res:{NEW}:{first}")
    assert sealed == Seal(NEW)
    told.term.read(NEW, [seal(7)])
    told.hears(hello(WorkerId("w-next")))
    plans = [effect.plan for effect in told.wants(SendPlan) if isinstance(effect, SendPlan)]
    assert [len(unpack_u32(admitted.tokens)) for plan in plans for admitted in plan.admitted] == [3]


def test_a_deadline_ends_a_request_wherever_it_is() -> None:
    told = Told.leading(msgspec.structs.replace(submit(), deadline_ms=2000, arrived_ms=500))
    assert told.wants(Emit, Finish) == []
    told.now_s = 2.0
    emit, finish = told.wants(Emit, Finish)
    assert isinstance(emit, Emit)
    (fault,) = [fault for batch in emit.result.batches for fault in batch.faults]
    assert (fault.status, fault.code) == (504, "deadline_exceeded")
    assert fault.message == "The deadline of 1500 ms passed while it waited for a worker."
    assert finish == Finish(["entry of Submit"])


def test_a_worker_that_breaks_is_held_against_its_requests_before_they_are_planned_again() -> None:
    told = Told.leading(hello(NEW), submit())
    told.wants()
    told.hears(WorkerBye(worker_id=NEW, error="out of memory"))
    told.hears(hello(WorkerId("w-next")))
    told.wants()
    told.term.read(NEW, [seal(7)])
    keep, plan, *_ = told.wants(Keep, SendPlan)
    assert isinstance(keep, Keep)
    ((entry, case),) = keep.cases.items()
    assert (entry, case.num_open, case.deaths[0].reason) == ("entry of Submit", 1, "out of memory")
    assert isinstance(plan, SendPlan)


def test_what_was_kept_goes_before_what_is_left_of_the_logs() -> None:
    told = Told(OLD)
    told.wants()
    told.term.take_over([Delivery("1", submit(), kept=(pack_u32([70, 71]),)), Delivery("2", hello(NEW))])
    told.term.read(OLD, [tokens(OLD, StepId(3, 9), 72, at=2), seal(7)])
    told.sees()
    keep, plan, *_ = told.wants(Keep, SendPlan)
    assert isinstance(keep, Keep)
    assert isinstance(plan, SendPlan)
    assert list(unpack_u32(plan.plan.admitted[0].tokens)) == [1, 2, 3, 70, 71, 72]
    assert keep.outputs == [OutputPart.of(OutputAddress(GATEWAY, Handle(0)), 2, [72], is_ended=False)]


def test_a_fault_is_told_before_the_end_that_it_makes_is_kept() -> None:
    too_long = submit(prompt=tuple(range(100)))
    two_choices = msgspec.structs.replace(too_long, sampling=SamplingParams(n=2))
    told = Told.leading(hello(NEW), two_choices)
    emit, keep, finish = told.wants(Emit, Keep, Finish)
    assert isinstance(emit, Emit)
    assert isinstance(keep, Keep)
    assert keep.outputs == [OutputPart.of(OutputAddress(GATEWAY, Handle(0)), 0, [], is_ended=True)]
    assert isinstance(finish, Finish)
    assert finish.outputs == [OutputAddress(GATEWAY, Handle(0))]


def test_a_request_that_an_earlier_leader_gave_up_is_told_so_and_not_computed() -> None:
    told = Told()
    told.wants()
    told.term.take_over([Delivery("1", submit(), case=Case(is_closed=True))])
    told.hears(hello(NEW))
    emit, finish = told.wants(Emit, Finish, SendPlan, Bury)
    assert isinstance(emit, Emit)
    assert [fault.code for batch in emit.result.batches for fault in batch.faults] == ["request_failed_repeatedly"]
    assert isinstance(finish, Finish)
    assert "1" in finish.entries
