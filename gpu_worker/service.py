"""The worker's loop: read plans, compute them in order, emit results, show signs of life.

Four threads, so that the one that computes does nothing else:

    receive    plans from the bus into a queue
    compute    the caller of `run`: `runner.step`, plan by plan
    emit       results to the bus, repeated by id until they are there
    heartbeat  the last finished step and the plans that wait, so that a wedged compute thread shows

A worker that was sealed, or sees a gap in its plans, starts a new life: it drops everything and registers under a new
name. The end on purpose (SIGTERM): finish the step in flight, emit it, say bye.
"""

import contextlib
import enum
import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gpu_worker.delivery import DeliveryBook
from gpu_worker.runner import Runner, StepOutput
from shared.bus import HEARTBEAT_INTERVAL_S, LIVENESS_TTL_S, WorkerBus
from shared.errors import BusUnavailableError, PlanError, SealedError
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.messages import StepPlan, WorkerStatus

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_READ_TIMEOUT_S = 0.5
_LONGEST_RETRY_S = 1.0
_FAREWELL_S = 4.0
"""After the end, how long a bus that is away is waited for. Below its own timeout: a hanging one is waited for once."""
_LONGEST_WORDS = 500


class _Ending(enum.Enum):
    """Why a life is over."""

    STOPPED = "stopped on purpose"
    SEALED = "sealed"
    OUT_OF_SYNC = "a gap in its plans"
    FAILED = "an error"


class WorkerService:
    """Serves one pool with one runner until it is stopped."""

    def __init__(self, bus: WorkerBus, runner: Runner) -> None:
        self._bus = bus
        self._runner = runner
        self._stopping = threading.Event()
        self._life: _Life | None = None

    def stop(self) -> None:
        """Make `run` return after the step in flight. May be called from a signal handler or another thread."""
        self._stopping.set()
        if self._life is not None:
            self._life.end(_Ending.STOPPED)

    def run(self) -> int:
        """Serve until stopped; the process's exit code.

        Raises:
            Exception: whatever the runner or the bus raised that is not foreseen; the scheduler has been told.
        """
        while not self._stopping.is_set():
            self._life = _Life(self._bus, self._runner)
            if self._stopping.is_set():  # stop() came just before there was a life to end
                break
            ending = self._life.run()
            if ending is _Ending.STOPPED:
                break
            if ending is _Ending.FAILED:
                return self._fail(self._life)
            _log.warning("Worker %s is over (%s): starting under a new name", self._life.worker, ending.value)
            self._runner.reset()
        return 0

    def _fail(self, life: "_Life") -> int:
        if isinstance(life.error, PlanError):
            _log.error("Worker %s cannot go on, plan %s: %s", life.worker, life.computing, life.error)
            return 1
        assert life.error is not None
        raise life.error


class _Life:
    """One worker name, from its registration to its end."""

    def __init__(self, bus: WorkerBus, runner: Runner) -> None:
        self.worker = WorkerId("")
        self.error: BaseException | None = None
        self.computing = BEFORE_FIRST_STEP
        self._bus = bus
        self._runner = runner
        self._plans: queue.SimpleQueue[tuple[StepId, StepPlan] | None] = queue.SimpleQueue()
        self._outputs: queue.SimpleQueue[tuple[StepId, StepPlan, StepOutput, int] | None] = queue.SimpleQueue()
        self._last_step = BEFORE_FIRST_STEP
        self._num_received = 0
        self._num_computed = 0
        self._ending: _Ending | None = None
        self._ended = threading.Event()
        self._ended_at = 0.0

    def run(self) -> _Ending:
        """Live. Returns why it ended; `error` holds what an unforeseen end raised."""
        threads: list[threading.Thread] = []
        try:
            self.worker = self._persist(self._bus.register)
            _log.info("Worker %s is ready", self.worker)
            threads = [self._start(work) for work in (self._receive, self._emit, self._show_life)]
            self._compute()
        except BusUnavailableError:
            _log.warning("Stopped while Redis was away")
        except Exception as error:
            self._fail(error)
        self._outputs.put(None)
        for thread in threads:
            thread.join()
        assert self._ending is not None
        if self.worker and self._ending is not _Ending.SEALED:
            self._say_bye()
        return self._ending

    def end(self, ending: _Ending) -> None:
        """Let the threads come to their end. The first ending counts."""
        if self._ending is None:
            self._ending, self._ended_at = ending, time.monotonic()
        self._ended.set()
        self._plans.put(None)

    def _compute(self) -> None:
        while (item := self._plans.get()) is not None and not self._ended.is_set():
            step, plan = item
            if not self._follows(step):
                _log.warning("Plan %s does not follow plan %s", step, self._last_step)
                return self.end(_Ending.OUT_OF_SYNC)
            self.computing = step
            started_ns = time.perf_counter_ns()
            output = self._runner.step(plan)
            compute_us = (time.perf_counter_ns() - started_ns) // 1000
            self._outputs.put((step, plan, output, compute_us))
            self._last_step = step
            self._num_computed += 1
        return None

    def _follows(self, step: StepId) -> bool:
        """Within an epoch steps count up by one; a newer epoch begins at step 1."""
        last = self._last_step
        return step == last.next() if step.epoch == last.epoch else step.epoch > last.epoch and step.step == 1

    def _receive(self) -> None:
        cursor = BEFORE_FIRST_STEP
        while not self._ended.is_set():
            read = partial(self._bus.read_plans, self.worker, cursor, timeout_s=_READ_TIMEOUT_S)
            plans = self._persist(read, farewell_s=0.0)
            for step, plan in plans:
                cursor = step
                self._num_received += 1
                self._plans.put((step, plan))

    def _emit(self) -> None:
        book = DeliveryBook(self.worker)
        while (item := self._outputs.get()) is not None:
            step, plan, output, compute_us = item
            book.apply(plan)
            result = book.result(step, output, compute_us)
            self._persist(partial(self._bus.emit, self.worker, step, result))

    def _show_life(self) -> None:
        seen: float | None = None
        while True:
            status = WorkerStatus(
                worker_id=self.worker,
                capabilities=self._runner.capabilities,
                last_step=self._last_step,
                num_queued_plans=self._num_received - self._num_computed,
                host=socket.gethostname(),
            )
            try:
                self._bus.heartbeat(status)
                if seen is None or time.monotonic() - seen > LIVENESS_TTL_S:
                    self._bus.hello(self.worker, self._runner.capabilities)
                seen = time.monotonic()
            except BusUnavailableError as error:
                _log.warning("No heartbeat: %s", error)
            if self._ended.wait(HEARTBEAT_INTERVAL_S):
                return

    def _say_bye(self) -> None:
        if time.monotonic() - self._ended_at < _FAREWELL_S:
            with contextlib.suppress(BusUnavailableError):
                self._persist(partial(self._bus.bye, self.worker, error=self._last_words()))
                return
        _log.warning("Worker %s leaves without a word: Redis is away", self.worker)

    def _last_words(self) -> str:
        """What broke, in a few words, if something did: the scheduler holds it against what was being computed."""
        return f"{type(self.error).__name__}: {self.error}"[:_LONGEST_WORDS] if self.error else ""

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except SealedError as error:
                _log.warning("%s", error)
                self.end(_Ending.SEALED)
            except BusUnavailableError:
                _log.warning("Gave up on Redis after the end")
            except Exception as error:  # whatever it is, the process must not go on with a thread missing
                self._fail(error)

        thread = threading.Thread(target=guarded, name=work.__name__.strip("_"), daemon=True)
        thread.start()
        return thread

    def _fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
        self.end(_Ending.FAILED)

    def _persist(self, action: Callable[[], _T], *, farewell_s: float = _FAREWELL_S) -> _T:
        """Repeat an action until the bus answers. After the end only for `farewell_s` more."""
        is_away = False
        while True:
            try:
                answer = action()
            except BusUnavailableError as error:
                if self._ended.is_set() and time.monotonic() - self._ended_at > farewell_s:
                    raise
                if not is_away:
                    _log.warning("%s; trying again until it does", error)
                is_away = True
            else:
                if is_away:
                    _log.info("Redis is back")
                return answer
            delay_s = random.uniform(0.05, _LONGEST_RETRY_S)  # noqa: S311 - so that workers do not return as one
            time.sleep(delay_s if not self._ended.is_set() else min(delay_s, 0.2))
