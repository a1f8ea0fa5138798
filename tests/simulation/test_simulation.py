"""The whole stack, broken in thousands of ways; and that it would show if one of its safeguards were not there."""

import os
import signal

import msgspec
import pytest
from typer.testing import CliRunner

from loadtest.simulation.kernel import Call, Steps
from loadtest.simulation.model import Replayed, ReplayingRunner
from loadtest.simulation.redis import SimulatedRedis
from loadtest.simulation.run import first_failure, search, tell
from loadtest.simulation.scheduler import SchedulerProcess
from loadtest.simulation.simulation import Simulation
from pagestream.cli import app
from scheduler_svc.leadership.term import Term
from shared.bus import Delivery, LoggedResult
from shared.cached_blocks import BlockHash, CachedBlocks
from shared.errors import SealedError
from shared.ids import SEAL_STEP, BlockId, Epoch, StepId, WorkerId
from shared.messages import Admitted, StepPlan, StepResult, WorkerHello

NUM_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "10000"))
NUM_PARTS = 10


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_nothing_kills_a_stream(part: int) -> None:
    size = NUM_SEEDS // NUM_PARTS
    assert first_failure(range(part * size, (part + 1) * size)) is None


class WithoutSeal(SimulatedRedis):
    """Workers are told that they are dead, and their logs are taken for ended; but nothing closes the logs."""

    def __init__(self, *arguments, **hooks) -> None:
        super().__init__(*arguments, **hooks)
        self.given_up: dict[WorkerId, Epoch] = {}

    def seal(self, worker: WorkerId, epoch: Epoch) -> None:
        self.add_writer(worker)
        self.plans[worker].add(StepId(epoch, SEAL_STEP), None)
        self.given_up[worker] = epoch
        for stream in ("plans", "results"):
            self._changed((stream, worker))

    def read_results(self, worker: WorkerId, after: StepId) -> list[LoggedResult]:
        found = super().read_results(worker, after)
        if worker in self.given_up:
            found.append(LoggedResult(StepId(self.given_up[worker], SEAL_STEP), None))
        return found


class WithMulti(SimulatedRedis):
    """MULTI publishes although the log has refused."""

    def emit(self, writer: WorkerId, step: StepId, result: StepResult) -> None:
        try:
            self.append(writer, step, result)
        except SealedError:
            for batch in result.batches:
                self.publish(batch)
            raise
        for batch in result.batches:
            self.publish(batch)


class WithUsedNames(SimulatedRedis):
    """A worker that starts again goes on under its old name."""

    def register(self, process: str) -> WorkerId:
        self.add_writer(WorkerId(process))
        return WorkerId(process)


class WithStaleContents(SimulatedRedis):
    """A worker tells the next leader what its blocks have ever held."""

    def __init__(self, *arguments, **hooks) -> None:
        super().__init__(*arguments, **hooks)
        self.cached: dict[WorkerId, dict[BlockId, BlockHash]] = {}

    def send_plan(self, worker: WorkerId, step: StepId, plan: StepPlan) -> None:
        super().send_plan(worker, step, plan)
        self.cached.setdefault(worker, {}).update(plan.cached)

    def hello(self, hello: WorkerHello) -> None:
        kept = self.cached.get(hello.formerly, {})
        super().hello(msgspec.structs.replace(hello, cached=CachedBlocks.of(kept.items())))


class WithForgottenOutputs(SimulatedRedis):
    """A leader trusts that the logs reach back to the first token of each output."""

    def recover(self, name: str) -> list[Delivery]:
        return [delivery._replace(kept=()) for delivery in super().recover(name)]


class WithoutReplay(ReplayingRunner):
    """What a sequence's output has led to is forgotten when it moves."""

    def _replay(self, admitted: Admitted) -> Replayed:
        return Replayed(admitted.request_id, admitted.choice)


class WithEarlyFinish(SchedulerProcess):
    """Requests are acknowledged when they are read."""

    def _receive(self, term: Term) -> Steps:
        receiving = super()._receive(term)
        reply = None
        while True:
            call = receiving.send(reply)
            reply = yield call
            if isinstance(reply, list) and reply:
                yield Call(self._redis.finish, [delivery.entry for delivery in reply], [])


BUGS = {
    "skip the seal": {"redis": WithoutSeal},
    "MULTI instead of Lua": {"redis": WithMulti},
    "forget to replay the grammar": {"runner": WithoutReplay},
    "reuse a worker's name": {"redis": WithUsedNames},
    "tell the next leader of blocks that were overwritten": {"redis": WithStaleContents},
    "rely on the logs alone": {"redis": WithForgottenOutputs},
    "acknowledge at admission": {"scheduler": WithEarlyFinish},
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_would_be_found(bug: str) -> None:
    failure = first_failure(range(10_000), lambda seed: Simulation(seed, **BUGS[bug]))
    assert failure is not None
    assert isinstance(failure.error, AssertionError)
    print(f"{bug}: seed {failure.seed}, {failure.error}")


def test_a_seed_goes_the_same_way_again() -> None:
    for seed in range(30):
        story = list(tell(seed))
        assert story == list(tell(seed))
        assert story[-1].endswith("nothing was lost, repeated or left")


def test_the_command_tells_what_it_found() -> None:
    result = CliRunner().invoke(app, ["simulate", "--seeds", "5:7"], standalone_mode=False)
    assert (result.return_value, result.stdout) == (0, "2 seeds: nothing was lost, repeated or left\n")
    result = CliRunner().invoke(app, ["simulate", "--seed", "5", "--trace"], standalone_mode=False)
    assert "leads with epoch 1" in result.stdout


def test_a_search_ends_whatever_its_process_does_at_sigterm() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        searching = search(range(10_000), num_processes=2)
        assert next(searching).failure is None
        searching.close()
    finally:
        signal.signal(signal.SIGTERM, before)
