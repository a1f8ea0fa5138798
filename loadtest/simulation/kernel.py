"""Simulated time, and processes whose tasks are generators: they yield what they wait for, and are resumed with it."""

import heapq
from collections.abc import Callable, Generator
from random import Random
from typing import Any, Final

from shared.errors import PagestreamError

_LOOK_S: Final = 0.25


class Violation(AssertionError):  # noqa: N818 - it is what the simulation looks for
    """Something happened that must never happen."""


class Signal:
    """Something that tasks of one process wait for. Set while nobody waits, it lets the next one pass."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Task] = []

    def set(self) -> None:
        """Let those pass who wait, or else who comes next."""
        if not self._waiting:
            self._is_set = True
            return
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.resume_soon()

    def wait(self, task: "Task") -> None:
        """Resume a task when the signal is set."""
        if self._is_set:
            self._is_set = False
            task.resume_soon()
        else:
            self._waiting.append(task)


class Call:
    """One command to Redis.

    Args:
        act: What the server does, as one act.
        is_repeatable: Whether the client may send it twice.
        key: Where nothing is found, what to wait for; the command is tried again when that has changed.
        timeout_s: For how long.
    """

    __slots__ = ("act", "arguments", "is_repeatable", "key", "timeout_s")

    def __init__(
        self,
        act: Callable[..., Any],
        *arguments: object,
        is_repeatable: bool = True,
        key: object = None,
        timeout_s: float = 0.0,
    ) -> None:
        self.act = act
        self.arguments = arguments
        self.is_repeatable = is_repeatable
        self.key = key
        self.timeout_s = timeout_s


Operation = float | Signal | Call
Steps = Generator[Operation, Any, Any]
"""What a task does: it yields seconds, signals and calls, and is sent the replies."""


class Kernel:
    """The clock, and everything that is to happen.

    Attributes:
        call: Carries a task's call to the server and its reply back.
        processes: All that there have been, by their names.
        story: What has happened, if it is told.
    """

    def __init__(self, rng: Random, *, is_told: bool) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.call: Callable[[Task, Call], None]
        self.story: list[str] | None = [] if is_told else None
        self.processes: dict[str, Process] = {}
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_due = 0

    def after(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        """Let something happen later."""
        self._num_due += 1
        heapq.heappush(self._due, (self.now_s + delay_s, self._num_due, act, arguments))

    def run(self, until: Callable[[], bool], deadline_s: float) -> bool:
        """Let things happen until a condition holds, which is looked at now and then; whether it does in time."""
        due, pop = self._due, heapq.heappop
        while not until():
            if self.now_s >= deadline_s:
                return False
            stop_s = min(deadline_s, self.now_s + _LOOK_S)
            while due and due[0][0] <= stop_s:
                self.now_s, _, act, arguments = pop(due)
                act(*arguments)
            self.now_s = stop_s
        return True

    def is_open(self, connection: str) -> bool:
        """Whether a connection is there. That of a killed process is closed, that of a stopped or cut one is not."""
        process = self.processes[connection.partition(".")[0]]
        return process.is_alive and process.connection == connection

    def tell(self, who: str, what: str, *values: object) -> None:
        """Add to the story."""
        if self.story is not None:
            self.story.append(f"{self.now_s:9.4f} {who:<10} {what % values if values else what}")


class Process:
    """One process: it may be stopped for a while (SIGSTOP) or cut off the network, and dies with all its tasks.

    Attributes:
        paused_until_s: It does nothing before.
        cut_until_s: Nothing it sends arrives before, and nothing arrives at it.
        away_s: For how long it was stopped and cut off, in all.
        calls_to_live: It dies with this call from now on; None if it is not to die.
        num_resets: How often its connections have been reset.
    """

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.is_alive = True
        self.paused_until_s = 0.0
        self.cut_until_s = 0.0
        self.away_s = 0.0
        self.calls_to_live: int | None = None
        self.num_resets = 0
        self._tasks: list[Task] = []
        kernel.processes[name] = self

    @property
    def connection(self) -> str:
        """Names the connection that it has at the moment, or had when it died."""
        return f"{self.name}.{self.num_resets}"

    @property
    def is_going(self) -> bool:
        """Whether it will be gone soon."""
        return self.calls_to_live is not None

    @property
    def is_cut(self) -> bool:
        """Whether nothing it sends arrives, and nothing arrives at it."""
        return self.kernel.now_s < self.cut_until_s

    def start(self, steps: Steps) -> "Task":
        """Run a task from now on."""
        task = Task(self, steps)
        self._tasks.append(task)
        task.resume_soon()
        return task

    def failed(self, task: "Task", error: PagestreamError) -> None:
        """A task has ended with an error."""
        raise Violation(f"{self.name} failed in {task}: {error!r}") from error

    def reset(self) -> None:
        """Lose all connections; others are made at the next need."""
        self.num_resets += 1

    def crash(self) -> None:
        """Die at once (kill -9)."""
        if self.is_alive:
            self.tell("killed")
            self.is_alive = False
            for task in self._tasks:
                task.is_over = True

    def tell(self, what: str, *values: object) -> None:
        """Add to the story."""
        self.kernel.tell(self.name, what, *values)


class Task:
    """A generator of a process that is resumed until it ends."""

    __slots__ = ("_steps", "is_over", "process")

    def __init__(self, process: Process, steps: Steps) -> None:
        self.process = process
        self.is_over = False
        self._steps = steps

    def __repr__(self) -> str:
        return repr(self._steps)

    def resume_soon(self) -> None:
        """Go on after what is happening just now."""
        self.process.kernel.after(0.0, self.resume)

    def resume(self, value: object = None, error: Exception | None = None) -> None:
        """Go on with what was waited for, unless the process is dead, or later if it is paused."""
        process = self.process
        kernel = process.kernel
        if self.is_over:
            return
        if process.paused_until_s > kernel.now_s:
            kernel.after(process.paused_until_s - kernel.now_s, self.resume, value, error)
            return
        try:
            operation = self._steps.throw(error) if error else self._steps.send(value)
        except StopIteration:
            self.is_over = True
        except PagestreamError as failure:
            self.is_over = True
            process.failed(self, failure)
        else:
            if isinstance(operation, Call):
                kernel.call(self, operation)
            elif isinstance(operation, Signal):
                operation.wait(self)
            else:
                kernel.after(operation, self.resume)
