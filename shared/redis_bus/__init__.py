"""The bus on Redis, 6.2 or newer: one class per role, each implementing its protocol of `shared.bus`."""

from shared.redis_bus.await_redis import await_redis, await_redis_blocking
from shared.redis_bus.dead_letters import RedisDeadLetterBox
from shared.redis_bus.gateway import RedisGatewayBus
from shared.redis_bus.observer import RedisPoolObserver
from shared.redis_bus.scheduler import RedisSchedulerBus
from shared.redis_bus.worker import RedisWorkerBus

__all__ = [
    "RedisDeadLetterBox",
    "RedisGatewayBus",
    "RedisPoolObserver",
    "RedisSchedulerBus",
    "RedisWorkerBus",
    "await_redis",
    "await_redis_blocking",
]
