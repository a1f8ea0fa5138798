"""A worker's side of the in-memory bus: blocks in the calling thread."""

from shared.errors import SealedError
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.memory_bus.state import PoolState
from shared.messages import StepPlan, StepResult, WorkerBye, WorkerHello, WorkerStatus


class MemoryWorkerBus:
    """Implements `WorkerBus`."""

    def __init__(self, state: PoolState) -> None:
        self._state = state

    def register(self) -> WorkerId:
        """Take a new name, and put it among the writers. Earlier leaders cannot write to its streams."""
        with self._state.changed:
            self._state.num_workers += 1
            worker = WorkerId(f"w{self._state.num_workers}")
            self._state.add_writer(worker, after=StepId(self._state.epoch, 0))
            return worker

    def hello(self, hello: WorkerHello) -> None:
        """Ask for work."""
        with self._state.changed:
            self._state.control.add(hello)
            self._state.notify()

    def bye(self, worker: WorkerId, *, error: str = "") -> None:
        """Say that no further plan will be executed, and why, if it is because of an error."""
        with self._state.changed:
            self._state.worker_status.pop(worker, None)
            self._state.control.add(WorkerBye(worker_id=worker, error=error))
            self._state.notify()

    def read_plans(self, worker: WorkerId, after: StepId, *, timeout_s: float) -> list[tuple[StepId, StepPlan]]:
        """Plans above `after`, in order; empty after the timeout.

        Raises:
            SealedError: the stream has been sealed.
        """
        with self._state.changed:
            stream = self._state.plans.get(worker)
            if stream is not None:
                self._state.changed.wait_for(lambda: stream.entries and stream.last > after, timeout_s)
            if stream is None or stream.last.is_seal:
                raise SealedError(f"{worker} has been sealed")
            return [(step, plan) for step, plan in stream.above(after) if plan is not None]

    def emit(self, worker: WorkerId, step: StepId, result: StepResult, *, previous: StepId = BEFORE_FIRST_STEP) -> None:
        """Append to the result stream and publish each batch to its gateway, as one act.

        Raises:
            SealedError: the stream has been sealed; nothing was published.
            LogLostError: the log ends before `previous`; nothing was published.
        """
        self._state.emit(worker, step, result, previous=previous)

    def heartbeat(self, status: WorkerStatus) -> None:
        """Say that this worker lives, and how far it is.

        Raises:
            SealedError: the bus has forgotten this worker.
        """
        with self._state.changed:
            if status.worker_id not in self._state.results:
                raise SealedError(f"{status.worker_id} is not among the writers")
            self._state.worker_status[status.worker_id] = (self._state.clock(), status)

    @property
    def is_cut_off(self) -> bool:
        """There is no connection to lose."""
        return False

    def close(self) -> None:
        """There is nothing to release."""
