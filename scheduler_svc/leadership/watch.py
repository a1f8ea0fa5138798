"""Who is alive, who is not, and how the pool is. Pure: heartbeats and the time are arguments."""

from collections import deque

from scheduler_svc.accounting.occupancy import kv_cache_unused_ratio, kv_cache_usage
from scheduler_svc.scheduling.scheduler import Scheduler
from scheduler_svc.settings import SchedulerSettings
from shared.bus import LIVENESS_TTL_S
from shared.ids import GatewayId, WorkerId
from shared.messages import PoolStatus

_RATE_WINDOW_S = 30.0


class Watch:
    """Remembers when somebody was first missed, and how many requests finished lately."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._welcomed_s: dict[WorkerId, float] = {}
        self._missed_s: dict[GatewayId, float] = {}
        self._finished: deque[tuple[float, int]] = deque()

    def welcome(self, worker_id: WorkerId, *, now_s: float) -> None:
        """A worker joins; its first heartbeat may still be under way."""
        self._welcomed_s[worker_id] = now_s

    def dead_workers(self, core: Scheduler, live: set[WorkerId], *, now_s: float) -> list[tuple[WorkerId, str]]:
        """Workers without heartbeat or without progress, and why they are taken for dead."""
        self._welcomed_s = {worker: since for worker, since in self._welcomed_s.items() if worker in core.workers}
        dead = []
        for worker_id, worker in core.workers.items():
            stalled_s = worker.stalled_s(now_s=now_s)
            if worker_id not in live and now_s - self._welcomed_s[worker_id] > LIVENESS_TTL_S:
                dead.append((worker_id, f"no heartbeat for {LIVENESS_TTL_S:.0f} s"))
            elif stalled_s > self._settings.worker_timeout_s:
                dead.append((worker_id, f"no answer to a plan for {stalled_s:.0f} s"))
        return dead

    def lost_gateways(self, core: Scheduler, live: set[GatewayId], *, now_s: float) -> list[GatewayId]:
        """Gateways that have requests here and were missed for longer than the grace time."""
        missed = core.gateways() - live
        self._missed_s = {gateway: self._missed_s.get(gateway, now_s) for gateway in missed}
        return [gateway for gateway, since in self._missed_s.items() if now_s - since > self._settings.gateway_grace_s]

    def pool_status(self, core: Scheduler, *, now_s: float) -> PoolStatus:
        """What everybody is told."""
        self._finished.append((now_s, core.num_finished))
        while now_s - self._finished[0][0] > _RATE_WINDOW_S:
            self._finished.popleft()
        since_s, num_before = self._finished[0]
        rate = (core.num_finished - num_before) / (now_s - since_s) if now_s > since_s else 0.0
        workers = core.workers.values()
        num_pending_tokens = sum(worker.num_pending_tokens for worker in workers)
        return PoolStatus(
            epoch=core.epoch,
            model=next((worker.capabilities.model for worker in workers), ""),
            max_model_len=core.max_model_len,
            num_workers=len(workers),
            num_waiting=core.num_waiting,
            num_running=core.num_running,
            kv_cache_usage=kv_cache_usage(workers),
            stalled_s=max((worker.stalled_s(now_s=now_s) for worker in workers), default=0.0),
            requests_per_s=rate,
            num_preemptions=core.num_preemptions,
            prefix_cache_queries=core.num_prompt_tokens,
            prefix_cache_hits=core.num_cached_tokens,
            kv_cache_unused_ratio=kv_cache_unused_ratio(workers),
            workers={worker.worker_id: worker.capabilities for worker in workers},
            num_waiting_tokens=num_pending_tokens + sum(sequence.num_tokens for sequence in core.waiting),
            tokens_per_s=sum(worker.pace.tokens_per_s for worker in workers),
        )
