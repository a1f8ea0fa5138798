"""One seed from beginning to end."""

from random import Random
from typing import Final

from loadtest.simulation.audit import Audit
from loadtest.simulation.gateway import GRACE_S, GatewayProcess
from loadtest.simulation.kernel import Kernel, Process, Violation
from loadtest.simulation.model import ReplayingRunner
from loadtest.simulation.network import Network
from loadtest.simulation.redis import SimulatedRedis
from loadtest.simulation.scenario import TROUBLE_S, Fault, Trouble, choose
from loadtest.simulation.scheduler import SchedulerProcess
from loadtest.simulation.worker import WorkerProcess
from scheduler_svc.settings import SchedulerSettings
from shared.messages import TokenBatch

_SETTINGS: Final = SchedulerSettings(redis_url="", worker_timeout_s=5.0, gateway_grace_s=GRACE_S)
_RECONNECT_S: Final = 0.5
_LONGEST_END_S: Final = 60.0
"""After everything has healed: longer than every timeout one after another."""


class Simulation:
    """A pool, its clients and its troubles, as a seed chooses them.

    The parts may be given in a broken form, to see that it is found.

    Args:
        seed: Decides everything.
        redis: What stands for Redis.
        runner: What computes.
        scheduler: What leads.
        is_told: Whether `story` is kept: slow.
    """

    def __init__(
        self,
        seed: int,
        *,
        redis: type[SimulatedRedis] = SimulatedRedis,
        runner: type[ReplayingRunner] = ReplayingRunner,
        scheduler: type[SchedulerProcess] = SchedulerProcess,
        is_told: bool = False,
    ) -> None:
        rng = Random(seed)
        self.kernel = Kernel(rng, is_told=is_told)
        self.scenario = choose(rng)
        self.network = Network(self.kernel, loss=self.scenario.loss)
        self._audit = Audit()
        self.redis = redis(
            lambda: self.kernel.now_s,
            publish=self._publish,
            committed=self._audit.committed,
            changed=self.network.changed,
            is_open=self.kernel.is_open,
            run=lambda: self.network.num_restarts,
        )
        self._runner = runner
        self._scheduler = scheduler
        self._num_started = 0
        self._workers = [self._new_worker(step_s) for step_s in self.scenario.steps_s]
        self._schedulers = [self._new_scheduler() for _ in range(2)]
        self._gateways = [self._new_gateway() for _ in range(self.scenario.num_gateways)]

    @property
    def story(self) -> list[str]:
        """What has happened, a line each."""
        return self.kernel.story or []

    def run(self) -> None:
        """Go through all of it.

        Raises:
            Violation: something happened that must never happen.
            AssertionError: the scheduler's state is not in order.
        """
        asks = self.scenario.asks
        for index, (at_s, ask) in enumerate(asks):
            self.kernel.after(at_s, self._ask, index)
            assert not ask.is_over
        for trouble in self.scenario.troubles:
            self.kernel.after(trouble.at_s, self._break, trouble)
        last_trouble_s = max((trouble.at_s for trouble in self.scenario.troubles), default=0.0)
        self.kernel.run(lambda: self.kernel.now_s > last_trouble_s and self._is_all_told(), TROUBLE_S)
        self._heal()
        if not self.kernel.run(self._is_all_over, self.kernel.now_s + _LONGEST_END_S):
            waiting = [ask.request_id for _, ask in asks if not ask.is_over]
            raise Violation(f"not over after {_LONGEST_END_S:.0f} s: {waiting}; left in Redis: {self.redis.left()}")

    def _ask(self, index: int) -> None:
        ask = self.scenario.asks[index][1]
        alive = [gateway for gateway in self._gateways if gateway.is_alive]
        if alive:
            alive[index % len(alive)].serve(ask)
        else:
            self.kernel.after(_RECONNECT_S, self._ask, index)

    def _break(self, trouble: Trouble) -> None:
        match trouble.fault:
            case Fault.RESTART_REDIS:
                return self.network.restart_redis(trouble.lasts_s)
            case Fault.ADD_WORKER:
                self._workers.append(self._new_worker(self.scenario.steps_s[0]))
                return None
            case Fault.KILL_WORKER | Fault.STOP_WORKER | Fault.PAUSE_WORKER | Fault.CUT_WORKER | Fault.RESET_WORKER:
                victims: list[Process] = [*self._workers]
            case Fault.KILL_LEADER | Fault.PAUSE_LEADER | Fault.CUT_LEADER | Fault.RESET_LEADER:
                victims = [scheduler for scheduler in self._schedulers if scheduler.term]
            case _:
                victims = [*self._gateways]
        victims = [victim for victim in victims if victim.is_alive]
        if victims:
            self._hit(victims[trouble.which % len(victims)], trouble)
        return None

    def _hit(self, victim: Process, trouble: Trouble) -> None:
        now_s = self.kernel.now_s
        victim.tell("%s for %.2f s (%s calls)", trouble.fault.value, trouble.lasts_s, trouble.num_calls)
        match trouble.fault:
            case Fault.KILL_WORKER | Fault.KILL_LEADER | Fault.KILL_GATEWAY:
                if trouble.num_calls is None:
                    victim.crash()
                else:
                    victim.calls_to_live = trouble.num_calls
                self.kernel.after(trouble.lasts_s, self._replace, victim)
            case Fault.STOP_WORKER if isinstance(victim, WorkerProcess):
                victim.stop()
                self.kernel.after(trouble.lasts_s, self._replace, victim)
            case Fault.PAUSE_WORKER | Fault.PAUSE_LEADER | Fault.PAUSE_GATEWAY:
                victim.paused_until_s = max(victim.paused_until_s, now_s + trouble.lasts_s)
                victim.away_s += trouble.lasts_s
            case Fault.RESET_WORKER | Fault.RESET_LEADER | Fault.RESET_GATEWAY:
                self.network.reset(victim)
            case _:
                victim.cut_until_s = max(victim.cut_until_s, now_s + trouble.lasts_s)
                victim.away_s += trouble.lasts_s

    def _replace(self, gone: Process) -> None:
        """Start another process for one that is gone, as soon as it is."""
        if gone.is_alive:
            if gone.is_going:
                self.kernel.after(_RECONNECT_S, self._replace, gone)
            return
        if isinstance(gone, WorkerProcess) and gone in self._workers:
            self._workers[self._workers.index(gone)] = self._new_worker(self.scenario.steps_s[0])
        elif isinstance(gone, SchedulerProcess) and gone in self._schedulers:
            self._schedulers[self._schedulers.index(gone)] = self._new_scheduler()
        elif isinstance(gone, GatewayProcess) and gone in self._gateways:
            self._lose_clients(gone)
            self._gateways[self._gateways.index(gone)] = self._new_gateway()

    def _lose_clients(self, gateway: GatewayProcess) -> None:
        for ask in gateway.asks:
            ask.is_over = True

    def _heal(self) -> None:
        """Nothing is cut off or lost any more, and whoever is gone is back. Who is stopped goes on in time."""
        self.kernel.tell("", "everything heals")
        self.network.loss = 0.0
        self.network.down_until_s = self.kernel.now_s
        for process in [*self._workers, *self._schedulers, *self._gateways]:
            process.cut_until_s = min(process.cut_until_s, self.kernel.now_s)
            process.calls_to_live = None
            self._replace(process)

    def _is_all_told(self) -> bool:
        return all(ask.is_over for _, ask in self.scenario.asks)

    def _is_all_over(self) -> bool:
        if not self._is_all_told() or self.redis.left():
            return False
        term = next((scheduler.term for scheduler in self._schedulers if scheduler.term), None)
        if term is None or not term.is_idle:
            return False
        term.check()
        return True

    def _publish(self, batch: TokenBatch) -> None:
        self._audit.published(self.redis, batch)
        self.network.publish(batch)

    def _name(self, kind: str) -> str:
        self._num_started += 1
        return f"{kind}{self._num_started}"

    def _new_worker(self, step_s: float) -> WorkerProcess:
        runner = self._runner(self.scenario.capabilities)
        return WorkerProcess(self.kernel, self._name("w"), self.redis, runner, step_s=step_s)

    def _new_scheduler(self) -> SchedulerProcess:
        return self._scheduler(self.kernel, self._name("s"), self.redis, _SETTINGS)

    def _new_gateway(self) -> GatewayProcess:
        max_model_len = self.scenario.capabilities.max_model_len
        return GatewayProcess(self.kernel, self._name("g"), self.redis, self.network, max_model_len=max_model_len)
