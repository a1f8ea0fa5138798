"""One worker name from its registration to its end, without threads, clocks or I/O."""

import enum

from gpu_worker.cache_contents import CacheContents
from gpu_worker.delivery import DeliveryBook
from gpu_worker.runner import Runner, StepOutput
from shared.bus import LIVENESS_TTL_S
from shared.cached_blocks import NOTHING_CACHED
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.messages import StepPlan, StepResult, WorkerHello, WorkerStatus


class Ending(enum.Enum):
    """Why a life is over."""

    STOPPED = "stopped on purpose"
    SEALED = "sealed"
    OUT_OF_SYNC = "a gap in its plans"
    FAILED = "an error"


class Life:
    """What has been received, computed and said under one name.

    Plans are computed in order, each once, and none after the first that does not follow. Every computed plan has one
    answer. `receive`, `compute`, `answer` and the signs of life may each have a thread of its own.

    Args:
        runner: Computes; has no rows.
        after: The one before this, of the same process.

    Attributes:
        worker: The name; empty until it is there.
        formerly: The name before this; empty in a process's first life.
        contents: What the cache holds; one life leaves it to the next.
        computing: The plan that is or was last computed.
        ending: Why it is over, or None. The first ending counts.
        error: What an unforeseen end raised.
    """

    def __init__(self, runner: Runner, *, after: "Life | None" = None) -> None:
        self.worker = WorkerId("")
        self.computing = BEFORE_FIRST_STEP
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        self._runner = runner
        self.contents: CacheContents = after.contents if after else CacheContents(runner.capabilities.block_size)
        self.formerly: WorkerId = (after.worker or after.formerly) if after else WorkerId("")
        self._cached = NOTHING_CACHED
        self._book = DeliveryBook(self.worker)
        self._cursor = BEFORE_FIRST_STEP
        self._last_step = BEFORE_FIRST_STEP
        self._num_received = 0
        self._num_computed = 0
        self._heard_s: float | None = None

    @property
    def cursor(self) -> StepId:
        """The last plan that was received."""
        return self._cursor

    @property
    def says_bye(self) -> bool:
        """Whether the scheduler may know of this life, and does not know that it is over."""
        return bool(self.worker) and self.ending is not Ending.SEALED

    def begin(self, worker: WorkerId) -> None:
        """Have a name."""
        self.worker = worker
        self._book = DeliveryBook(worker)
        self._cached = self.contents.told()

    def next(self) -> "Life":
        """The one after this. Its rows are gone; what the cache holds is not."""
        self._runner.reset()
        return Life(self._runner, after=self)

    def receive(self, step: StepId) -> None:
        """A plan has been read, and waits."""
        self._cursor = step
        self._num_received += 1

    def compute(self, step: StepId, plan: StepPlan) -> StepOutput | None:
        """Execute the next plan; None if it does not follow the last one: this life must end.

        Raises:
            PlanError: the plan contradicts what the runner holds.
        """
        if not self._follows(step):
            return None
        self.computing = step
        output = self._runner.step(plan)
        self.contents.executed(plan)
        self._last_step = step
        self._num_computed += 1
        return output

    def answer(self, step: StepId, plan: StepPlan, output: StepOutput, compute_us: int) -> StepResult:
        """The result of a computed plan; asked for in order."""
        self._book.apply(plan)
        return self._book.result(step, output, compute_us)

    def status(self, host: str) -> WorkerStatus:
        """How far it is."""
        return WorkerStatus(
            worker_id=self.worker,
            capabilities=self._runner.capabilities,
            last_step=self._last_step,
            num_queued_plans=self._num_received - self._num_computed,
            host=host,
        )

    def hello(self) -> WorkerHello:
        """What it says of itself. Once it has been given a plan, a block may hold something else than at first."""
        cached = NOTHING_CACHED if self._num_received else self._cached
        return WorkerHello(
            worker_id=self.worker, capabilities=self._runner.capabilities, formerly=self.formerly, cached=cached
        )

    def must_greet(self, now_s: float) -> bool:
        """Whether we have not been heard yet, or not for so long that we were taken for dead."""
        return self._heard_s is None or now_s - self._heard_s > LIVENESS_TTL_S

    def heard(self, now_s: float) -> None:
        """A sign of life has been taken."""
        self._heard_s = now_s

    def end(self, ending: Ending) -> None:
        """Be over."""
        if self.ending is None:
            self.ending = ending

    def _follows(self, step: StepId) -> bool:
        """Within an epoch steps count up by one; a newer epoch begins at step 1."""
        last = self._last_step
        return step == last.next() if step.epoch == last.epoch else step.epoch > last.epoch and step.step == 1
