"""A simulated worker process: what `gpu_worker.service` does with threads, around the same `Life`."""

from collections import deque

from gpu_worker.life import Ending, Life
from gpu_worker.runner import Runner, StepOutput
from loadtest.simulation.kernel import Call, Kernel, Process, Signal, Steps, Task, Violation
from loadtest.simulation.redis import SimulatedRedis
from shared.bus import HEARTBEAT_INTERVAL_S
from shared.errors import BusUnavailableError, PagestreamError, PlanError, SealedError
from shared.ids import StepId
from shared.messages import StepPlan

_READ_TIMEOUT_S = 0.5
_LONGEST_RETRY_S = 1.0
_LONGEST_REST_S = 0.05


class WorkerProcess(Process):
    """Serves until it is killed, or told to stop."""

    def __init__(self, kernel: Kernel, name: str, redis: SimulatedRedis, runner: Runner, *, step_s: float) -> None:
        super().__init__(kernel, name)
        self._redis = redis
        self._step_s = step_s
        self._is_stopping = False
        self._begin(Life(runner))
        self.start(self._run())

    @property
    def is_going(self) -> bool:
        """Whether it will be gone soon."""
        return self._is_stopping or super().is_going

    def stop(self) -> None:
        """SIGTERM."""
        self.tell("told to stop")
        self._is_stopping = True
        self._end(Ending.STOPPED)

    def reset(self) -> None:
        """It notices at once, and says by which connection it goes on."""
        super().reset()
        if self._life.worker and self._life.ending is None:
            self.start(self._say_connection())

    def failed(self, task: Task, error: PagestreamError) -> None:
        """A thread has ended with an error."""
        if isinstance(error, SealedError):
            self._end(Ending.SEALED)
        elif isinstance(error, PlanError):
            raise Violation(f"{self.name} was given an impossible plan: {error}") from error
        else:
            super().failed(task, error)

    def _begin(self, life: Life) -> None:
        self._life = life
        self._ended = Signal()
        self._plans: deque[tuple[StepId, StepPlan]] = deque()
        self._outputs: deque[tuple[StepId, StepPlan, StepOutput]] = deque()
        self._has_plans, self._has_outputs, self._has_emitted = Signal(), Signal(), Signal()

    def _end(self, ending: Ending) -> None:
        self._life.end(ending)
        self._ended.set()
        self._has_outputs.set()

    def _run(self) -> Steps:
        while not self._is_stopping:
            life = self._life
            life.begin((yield from self._persist(Call(self._redis.register, self.name))))
            self.tell("registers as %s", life.worker)
            emitting = self.start(self._emit())
            others = [self.start(steps) for steps in (self._receive(), self._compute(), self._show_life())]
            yield self._ended
            while not emitting.is_over:
                yield self._has_emitted
            for task in others:
                task.is_over = True
            self.tell("%s is over: %s", life.worker, life.ending)
            if life.says_bye:
                yield from self._persist(Call(self._redis.bye, life.worker, is_repeatable=False))
            self._begin(life.next())
        self.tell("leaves")
        self.is_alive = False

    def _receive(self) -> Steps:
        life = self._life
        while life.ending is None:
            key = ("plans", life.worker)
            read = Call(self._redis.read_plans, life.worker, life.cursor, key=key, timeout_s=_READ_TIMEOUT_S)
            try:
                plans = yield read
            except BusUnavailableError:
                yield self.kernel.rng.random() * _LONGEST_RETRY_S
                continue
            for step, plan in plans:
                life.receive(step)
                self._plans.append((step, plan))
            self._has_plans.set()

    def _compute(self) -> Steps:
        while self._life.ending is None:
            if not self._plans:
                yield self._has_plans
                continue
            step, plan = self._plans.popleft()
            yield self._step_s
            output = self._life.compute(step, plan)
            if output is None:
                self._end(Ending.OUT_OF_SYNC)
                return
            self._outputs.append((step, plan, output))
            self._has_outputs.set()

    def _emit(self) -> Steps:
        life = self._life
        try:
            while life.ending is None or self._outputs:
                if not self._outputs:
                    yield self._has_outputs
                    continue
                step, plan, output = self._outputs.popleft()
                result = life.answer(step, plan, output, 0)
                yield from self._persist(Call(self._redis.emit, life.worker, step, result))
        finally:
            self._has_emitted.set()

    def _show_life(self) -> Steps:
        life = self._life
        while True:
            status = life.status(self.name)
            try:
                yield Call(self._redis.beat, f"w:{life.worker}", status, self.connection)
                if life.must_greet(self.kernel.now_s):
                    yield Call(self._redis.hello, life.hello(), is_repeatable=False)
                life.heard(self.kernel.now_s)
            except BusUnavailableError:
                self.tell("no heartbeat")
            yield HEARTBEAT_INTERVAL_S

    def _say_connection(self) -> Steps:
        life = self._life
        yield self.kernel.rng.random() * _LONGEST_REST_S
        try:
            yield Call(self._redis.beat, f"w:{life.worker}", life.status(self.name), self.connection)
        except BusUnavailableError:
            self.tell("no heartbeat")

    def _persist(self, call: Call) -> Steps:
        while True:
            try:
                return (yield call)
            except BusUnavailableError:
                yield self.kernel.rng.random() * _LONGEST_RETRY_S
