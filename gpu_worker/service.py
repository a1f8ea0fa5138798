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
import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gpu_worker.life import Ending, Life
from gpu_worker.result_log import ResultLog
from gpu_worker.runner import Runner, StepOutput
from shared.bus import HEARTBEAT_INTERVAL_S, WorkerBus
from shared.errors import BusUnavailableError, MessageError, PlanError, SealedError
from shared.ids import StepId
from shared.messages import StepPlan

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_READ_TIMEOUT_S = 0.5
_REST_S = 0.05
"""How long a connection may be gone unnoticed: a part of what a scheduler waits before it takes us for dead."""

_LONGEST_RETRY_S = 1.0
_FAREWELL_S = 4.0
"""After the end, how long a bus that is away is waited for. Below its own timeout: a hanging one is waited for once."""
_LONGEST_WORDS = 500


class WorkerService:
    """Serves one pool with one runner until it is stopped."""

    def __init__(self, bus: WorkerBus, runner: Runner) -> None:
        self._bus = bus
        self._runner = runner
        self._stopping = threading.Event()
        self._threads: _Threads | None = None

    def stop(self) -> None:
        """Make `run` return after the step in flight. May be called from a signal handler or another thread."""
        self._stopping.set()
        if self._threads is not None:
            self._threads.end(Ending.STOPPED)

    def run(self) -> int:
        """Serve until stopped; the process's exit code.

        Raises:
            Exception: whatever the runner or the bus raised that is not foreseen; the scheduler has been told.
        """
        life = Life(self._runner)
        while not self._stopping.is_set():
            self._threads = _Threads(self._bus, life)
            if self._stopping.is_set():  # stop() came just before there was a life to end
                break
            ending = self._threads.run()
            if ending is Ending.STOPPED:
                break
            if ending is Ending.FAILED:
                return self._fail(life)
            _log.warning("Worker %s is over (%s): starting under a new name", life.worker, ending.value)
            life = life.next()
        return 0

    def _fail(self, life: Life) -> int:
        if isinstance(life.error, PlanError):
            _log.error("Worker %s cannot go on, plan %s: %s", life.worker, life.computing, life.error)
            return 1
        assert life.error is not None
        raise life.error


class _Threads:
    """Those that live one life."""

    def __init__(self, bus: WorkerBus, life: Life) -> None:
        self._bus = bus
        self._life = life
        self._plans: queue.SimpleQueue[tuple[StepId, StepPlan] | None] = queue.SimpleQueue()
        self._outputs: queue.SimpleQueue[tuple[StepId, StepPlan, StepOutput, int] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._ended_at = 0.0

    def run(self) -> Ending:
        """Live. Returns why it ended."""
        life = self._life
        threads: list[threading.Thread] = []
        try:
            life.begin(self._persist(self._bus.register))
            _log.info("Worker %s is ready", life.worker)
            threads = [self._start(work) for work in (self._receive, self._emit, self._show_life)]
            self._compute()
        except BusUnavailableError:
            _log.warning("Stopped while Redis was away")
        except Exception as error:
            self._fail(error)
        self._outputs.put(None)
        for thread in threads:
            thread.join()
        assert life.ending is not None
        if life.says_bye:
            self._say_bye()
        return life.ending

    def end(self, ending: Ending) -> None:
        """Let the threads come to their end. The first ending counts."""
        if self._life.ending is None:
            self._life.end(ending)
            self._ended_at = time.monotonic()
        self._ended.set()
        self._plans.put(None)

    def _compute(self) -> None:
        while (item := self._plans.get()) is not None and not self._ended.is_set():
            step, plan = item
            started_ns = time.perf_counter_ns()
            output = self._life.compute(step, plan)
            if output is None:
                return self.end(Ending.OUT_OF_SYNC)
            compute_us = (time.perf_counter_ns() - started_ns) // 1000
            self._outputs.put((step, plan, output, compute_us))
        return None

    def _receive(self) -> None:
        life = self._life
        while not self._ended.is_set():
            read = partial(self._bus.read_plans, life.worker, life.cursor, timeout_s=_READ_TIMEOUT_S)
            for step, plan in self._persist(read, farewell_s=0.0):
                life.receive(step)
                self._plans.put((step, plan))

    def _emit(self) -> None:
        log = ResultLog(self._bus, self._life.worker)
        while (item := self._outputs.get()) is not None:
            step, plan, output, compute_us = item
            result = self._life.answer(step, plan, output, compute_us)
            self._persist(partial(log.emit, step, result))

    def _show_life(self) -> None:
        host = socket.gethostname()
        while True:
            status = self._life.status(host)
            try:
                self._bus.heartbeat(status)
                if self._life.must_greet(time.monotonic()):
                    self._bus.hello(self._life.hello())
                self._life.heard(time.monotonic())
            except BusUnavailableError as error:
                _log.warning("No heartbeat: %s", error)
            if self._rest():
                return

    def _rest(self) -> bool:
        """Wait until the next heartbeat is due, or is due at once since our connection is gone; whether all is over."""
        due_s = time.monotonic() + HEARTBEAT_INTERVAL_S
        while time.monotonic() < due_s and not self._bus.is_cut_off:
            if self._ended.wait(_REST_S):
                return True
        return self._ended.is_set()

    def _say_bye(self) -> None:
        if time.monotonic() - self._ended_at < _FAREWELL_S:
            with contextlib.suppress(BusUnavailableError):
                self._persist(partial(self._bus.bye, self._life.worker, error=self._last_words()))
                return
        _log.warning("Worker %s leaves without a word: Redis is away", self._life.worker)

    def _last_words(self) -> str:
        """What broke, in a few words, if something did: the scheduler holds it against what was being computed."""
        error = self._life.error
        if error is None or isinstance(error, MessageError):  # a plan of another version is no request's fault
            return ""
        return f"{type(error).__name__}: {error}"[:_LONGEST_WORDS]

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except SealedError as error:
                _log.warning("%s", error)
                self.end(Ending.SEALED)
            except BusUnavailableError:
                _log.warning("Gave up on Redis after the end")
            except Exception as error:  # whatever it is, the process must not go on with a thread missing
                self._fail(error)

        thread = threading.Thread(target=guarded, name=work.__name__.strip("_"), daemon=True)
        thread.start()
        return thread

    def _fail(self, error: Exception) -> None:
        self._life.error = self._life.error or error
        self.end(Ending.FAILED)

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
