"""What lies between the processes and Redis: every command and every published batch travels, and may not arrive."""

from collections.abc import Callable

from loadtest.simulation.kernel import Call, Kernel, Process, Task
from shared.errors import BusError, BusUnavailableError
from shared.messages import TokenBatch

_LONG_DELAYS = 0.02
_REPEATED = 0.02
_LONGEST_TIMEOUT_S = 1.0


_Line = tuple[int, int]
"""What a command and its reply travel on: how often Redis had started again, and how often the process was reset."""


class Network:
    """Carries calls there and back.

    Attributes:
        down_until_s: Until then Redis is away. Its data is kept, as by an append-only file.
        num_restarts: Of Redis: connections do not outlive one.
        loss: Which part of published batches is lost.
    """

    def __init__(self, kernel: Kernel, *, loss: float) -> None:
        self.kernel = kernel
        self.down_until_s = 0.0
        self.num_restarts = 0
        self.loss = loss
        self._waiting: dict[object, list[tuple[Task, Call, float]]] = {}
        self._feeds: dict[str, tuple[Process, Callable[[TokenBatch | None], None], float]] = {}
        kernel.call = self.send

    def send(self, task: Task, call: Call) -> None:
        """Let a command travel to the server."""
        doom = task.process.calls_to_live
        if doom is not None:
            task.process.calls_to_live = doom - 1
            if doom == 0:
                task.process.crash()
                if self.kernel.rng.random() < 0.5:  # noqa: PLR2004 - half of the time the command had left
                    return
        self.kernel.after(self._delay_s(), self._arrive, task, call, self._line(task))

    def restart_redis(self, down_s: float) -> None:
        """Break all connections; serve again after some time."""
        self.down_until_s = self.kernel.now_s + down_s
        self.num_restarts += 1
        self.kernel.tell("redis", "is killed, and back after %.2f s", down_s)
        waiting, self._waiting = self._waiting, {}
        for entries in waiting.values():
            for task, _, _ in entries:
                self._fail(task)
        feeds, self._feeds = self._feeds, {}
        for _, take, _ in feeds.values():
            take(None)

    def reset(self, process: Process) -> None:
        """Break the connections of one process; it makes others."""
        process.reset()
        for key, entries in self._waiting.items():
            for task in [task for task, _, _ in entries if task.process is process]:
                self._fail(task)
            self._waiting[key] = [entry for entry in entries if entry[0].process is not process]
        feeds = [(name, take) for name, (owner, take, _) in self._feeds.items() if owner is process]
        for name, take in feeds:
            del self._feeds[name]
            take(None)

    def subscribe(self, name: str, process: Process, take: Callable[[TokenBatch | None], None]) -> None:
        """Give published batches to a process from now on; None when the connection is lost."""
        self._feeds[name] = (process, take, self.kernel.now_s)

    def publish(self, batch: TokenBatch) -> None:
        """Let a batch travel to its gateway, in order; or not."""
        feed = self._feeds.get(batch.gateway_id)
        rng = self.kernel.rng
        if feed is None or rng.random() < self.loss:
            return
        process, take, last_s = feed
        arrives_s = max(last_s, self.kernel.now_s + self._delay_s())
        self._feeds[batch.gateway_id] = (process, take, arrives_s)
        for _ in range(1 + (rng.random() < _REPEATED)):
            self.kernel.after(arrives_s - self.kernel.now_s, self._hand_over, process, take, batch)

    def changed(self, key: object) -> None:
        """Try those calls again that wait for this."""
        for task, call, until_s in self._waiting.pop(key, ()):
            if not task.is_over:
                self.kernel.after(0.0, self._execute, task, call, until_s, self._line(task))

    def _hand_over(self, process: Process, take: Callable[[TokenBatch | None], None], batch: TokenBatch) -> None:
        if process.is_alive and not process.is_cut:
            take(batch)

    def _arrive(self, task: Task, call: Call, line: _Line) -> None:
        is_away = self.kernel.now_s < self.down_until_s or line[0] != self.num_restarts
        is_broken = task.process.is_cut or line != self._line(task)
        if task.process.is_cut and self.kernel.rng.random() < 0.3:  # noqa: PLR2004 - it is stuck in a socket
            delay_s = task.process.cut_until_s - self.kernel.now_s + self._delay_s()
            self.kernel.after(delay_s, self._execute, None, call, 0.0, self._line(task))
        elif is_broken and not is_away and self.kernel.rng.random() < 0.5:  # noqa: PLR2004 - it had left
            self._execute(None, call, 0.0, line)
        if is_away or is_broken:
            self._fail(task)
        else:
            self._execute(task, call, self.kernel.now_s + call.timeout_s, line)

    def _execute(self, task: Task | None, call: Call, until_s: float, line: _Line) -> None:
        if line[0] != self.num_restarts:
            if task:
                self._fail(task)
            return
        try:
            if call.is_repeatable and self.kernel.rng.random() < _REPEATED:
                call.act(*call.arguments)
            reply = call.act(*call.arguments)
        except BusError as error:
            if task:
                self.kernel.after(self._delay_s(), self._reply, task, None, error, line)
            return
        if task is None:
            return
        if not reply and call.key is not None and self.kernel.now_s < until_s and task.process.is_alive:
            self._waiting.setdefault(call.key, []).append((task, call, until_s))
            self.kernel.after(until_s - self.kernel.now_s, self._time_out, task, call)
            return
        self.kernel.after(self._delay_s(), self._reply, task, reply, None, line)

    def _time_out(self, task: Task, call: Call) -> None:
        waiting = self._waiting.get(call.key, [])
        for entry in waiting:
            if entry[1] is call:
                waiting.remove(entry)
                self._reply(task, [], None, self._line(task))
                return

    def _reply(self, task: Task, reply: object, error: Exception | None, line: _Line) -> None:
        if task.process.is_cut or line != self._line(task):
            self._fail(task)
        else:
            task.resume(reply, error)

    def _line(self, task: Task) -> _Line:
        return self.num_restarts, task.process.num_resets

    def _fail(self, task: Task) -> None:
        delay_s = self.kernel.rng.random() * _LONGEST_TIMEOUT_S
        self.kernel.after(delay_s, task.resume, None, BusUnavailableError("Redis does not answer"))

    def _delay_s(self) -> float:
        rng = self.kernel.rng
        if rng.random() < _LONG_DELAYS:
            return rng.random()
        return rng.random() * 0.002
