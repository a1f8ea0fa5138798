"""The bus on Redis, 6.2 or newer: one class per role, each implementing its protocol of `shared.bus`."""

from shared.redis_bus.gateway import RedisGatewayBus
from shared.redis_bus.scheduler import RedisSchedulerBus
from shared.redis_bus.worker import RedisWorkerBus

__all__ = ["RedisGatewayBus", "RedisSchedulerBus", "RedisWorkerBus"]
