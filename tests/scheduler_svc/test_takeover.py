"""What a worker holds in its cache goes from one leader to the next, by the worker's own account."""

import pytest

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.life import Life
from scheduler_svc.scheduling.progress import Progress
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.ids import Epoch, GatewayId, Handle, RequestId, WorkerId
from shared.messages import StepResult, Submit, WorkerHello, decode_inbound, encode
from shared.packing import pack_u32, unpack_u32
from shared.sampling import SamplingParams
from tests.scheduler_svc.simulated_pool import capabilities

CAPABILITIES = capabilities(max_num_batched_tokens=64)
NUM_TOKENS = 14


def submit(*, request: str = "r", first: int = 100) -> Submit:
    return Submit(
        request_id=RequestId(request), gateway_id=GatewayId("g"), handle=Handle(0), arrived_ms=0,
        prompt=pack_u32(range(first, first + 20)), sampling=SamplingParams(max_tokens=NUM_TOKENS),
    )  # fmt: skip


class Served:
    """A leader and the life of its only worker."""

    def __init__(self, life: Life, *, epoch: int) -> None:
        self.life = life
        life.begin(WorkerId(f"w{epoch}"))
        hello = decode_inbound(encode(life.hello()))
        assert isinstance(hello, WorkerHello)
        self.hello = hello
        self.core = Scheduler(Epoch(epoch))
        self.core.add_worker(hello.worker_id, hello.capabilities, hello.cached)
        self.num_computed = 0

    def step(self) -> StepResult:
        step, plan = self.core.next_plan(self.life.worker, now_s=0.0)
        self.life.receive(step)
        output = self.life.compute(step, plan)
        self.num_computed += output.num_tokens
        result = self.life.answer(step, plan, output, 0)
        self.core.complete(self.life.worker, step, result)
        self.core.check()
        return result

    def serve(self, num_tokens: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            tokens += [token for batch in self.step().batches for token in unpack_u32(batch.tokens)]
        return tokens


@pytest.fixture
def first() -> Served:
    return Served(Life(FakeRunner(CAPABILITIES)), epoch=1)


def test_the_next_leader_goes_on_where_the_cache_ends(first: Served) -> None:
    first.core.submit(submit(), entry="1")
    told = first.serve(7)
    second = Served(first.life.next(), epoch=2)
    assert second.hello.formerly == first.life.worker
    second.core.submit(submit(), entry="1", progress={0: Progress(tuple(told))})
    told += second.serve(NUM_TOKENS - len(told))
    assert second.num_computed == 3 + 6  # 27 tokens are known, 6 blocks of 4 are full and computed
    again = Served(Life(FakeRunner(CAPABILITIES)), epoch=3)
    again.core.submit(submit(), entry="1")
    assert told == again.serve(NUM_TOKENS)


def test_what_has_been_overwritten_is_not_told_of(first: Served) -> None:
    for number in range(8):  # 8 x 33 tokens go through a cache of 96
        first.core.submit(submit(request=f"r{number}", first=100 * number), entry=str(number))
        first.serve(NUM_TOKENS)
    second = Served(first.life.next(), epoch=2)
    assert 0 < len(list(second.hello.cached)) <= CAPABILITIES.num_blocks
    for number in reversed(range(8)):  # the runner compares what it is told to take from the cache
        second.core.submit(submit(request=f"again {number}", first=100 * number), entry=str(number))
        second.serve(NUM_TOKENS)
    assert second.core.num_cached_tokens >= 2 * 16


def test_a_worker_that_has_been_given_a_plan_tells_of_nothing(first: Served) -> None:
    first.core.submit(submit(), entry="1")
    first.serve(7)
    second = Served(first.life.next(), epoch=2)
    assert list(second.hello.cached)
    second.core.submit(submit(request="other", first=500), entry="1")
    second.step()
    assert not list(second.life.hello().cached)


def test_a_life_without_a_name_leaves_what_it_was_left(first: Served) -> None:
    first.core.submit(submit(), entry="1")
    first.serve(7)
    third = first.life.next().next()
    third.begin(WorkerId("w9"))
    assert third.hello().formerly == first.life.worker
    assert len(list(third.hello().cached)) == 6
